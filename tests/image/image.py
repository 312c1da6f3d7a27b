#!/usr/bin/env python3
"""Makes the image of mica and runs it as the pipelines of docs/ci.md do, in a Docker Engine.

  image.py --mica PATH [--docker 'docker'] [--options OPTIONS] [--share DIR=SEEN] [--registry HOST:PORT] [--certs DIR] [--keep]

PATH is a static binary of this checkout. OPTIONS go to every `docker run` (`--network host`, for example). If Docker runs in another root,
`--share /outside=/inside` says how it calls a folder that both see. REGISTRY is one that containers can push to by plain HTTP; without it
nothing is pushed. The table says of each line which mode mica took, how long it needed, and whether the image has the digest of the one that
was built on the host. The exit status is 1 where something is not as it should be.
"""
import argparse, json, os, re, shlex, shutil, subprocess, sys, tempfile, time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
EPOCH = "1600000000"
DOCKERFILE = """\
FROM scratch AS base
COPY busybox /bin/
SHELL ["/bin/busybox", "sh", "-euc"]
RUN /bin/busybox --install -s /bin && mkdir -p /srv/app && echo hi >/srv/app/hi && chown -R 33:34 /srv/app
FROM base
COPY data /data/
RUN adduser -D -H -s /bin/sh nobody 2>/dev/null || true; rm /data/gone; echo more >>/data/kept; ln -s kept /data/link; mkdir -m 777 /mine
USER 1234
RUN id -u >/mine/id
CMD ["cat", "/data/kept"]
"""
WITHOUT_RUN = "FROM scratch AS one\nCOPY busybox /bin/\nFROM scratch\nCOPY --from=one --chown=5:6 /bin /bin\nCOPY data /data/\n"


# What GitLab's runner starts in a container: a shell that it finds, and which reads the job's script.
DETECT = " elif ".join(f"[ -x {shell} ]; then exec {shell} $@;" for shell in
    ("/usr/local/bin/bash", "/usr/bin/bash", "/bin/bash", "/usr/local/bin/sh", "/usr/bin/sh", "/bin/sh", "/busybox/sh"))
DETECT = f"if {DETECT} else echo shell not found; exit 1; fi"


def sh(words, text="", **more):
    return subprocess.run(words, capture_output=True, text=True, input=text, timeout=600, **more)


def must(ran):
    if ran.returncode:
        sys.exit(f"{shlex.join(ran.args)}: {ran.returncode}\n{ran.stdout}{ran.stderr}")
    return ran.stdout


class Test:
    def __init__(self, args):
        self.args = args
        self.docker = shlex.split(args.docker)
        self.options = shlex.split(args.options)
        outside, _, inside = (args.share or "/tmp=/tmp").partition("=")
        self.dir = tempfile.mkdtemp(prefix="mica-image-", dir=outside)
        os.chmod(self.dir, 0o755)
        self.seen = os.path.join(inside, os.path.basename(self.dir))
        self.failed = []
        self.modes = {}

    def images(self):
        """Makes both images on the host and loads them. Their sizes stand in the table."""
        bin = os.path.join(self.dir, "bin")
        os.mkdir(bin)
        shutil.copy(self.args.mica, os.path.join(bin, "mica"))
        self.mica = [os.path.join(bin, "mica"), "--root", os.path.join(self.dir, "store")]
        for name, more in (("small", []), ("debug", ["--target", "debug"])):
            tar = os.path.join(self.dir, f"{name}.tar")
            must(sh([*self.mica, "build", "-t", f"mica-image:{name}", *more, "-o", f"type=docker,dest={tar}",
                "--build-context", f"mica={bin}", "--build-context", "busybox=/bin",
                "--build-context", f"certs={self.args.certs}", os.path.join(ROOT, "image")]))
            must(sh([*self.docker, "load", "-i", tar.replace(self.dir, self.seen)]))
            size = int(must(sh([*self.docker, "image", "inspect", "-f", "{{.Size}}", f"mica-image:{name}"])))
            self.row(f"image {name}", f"{os.path.getsize(tar) / 1e6:.1f} MB to pull, {size / 1e6:.1f} MB on disk")

    def context(self, name, text):
        path = os.path.join(self.dir, name)
        os.makedirs(os.path.join(path, "data"))
        shutil.copy("/bin/busybox", os.path.join(path, "busybox"))
        for file, content in (("kept", "kept\n"), ("gone", "gone\n")):
            with open(os.path.join(path, "data", file), "w") as out:
                out.write(content)
        with open(os.path.join(path, "Dockerfile"), "w") as out:
            out.write(text)
        os.chmod(path, 0o777)
        ran = must(sh([*self.mica, "build", "-q", "-o", "type=oci,dest=/dev/null", "--metadata-file", path + ".json", path],
            env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH}))
        with open(path + ".json") as file:
            return json.load(file)["containerimage.digest"]

    def mode(self, options):
        """Which mode mica takes in a container with these options."""
        # Those that a container has its rights by.
        pairs = [options[at:at + 2] for at, option in enumerate(options) if option in ("--user", "--security-opt", "--cap-drop")]
        key = tuple(word for pair in pairs for word in pair) + tuple(option for option in options if option == "--privileged")
        if key not in self.modes:
            ran = must(sh([*self.docker, "run", "--rm", *self.options, *key, "mica-image:small", "info", "--format=json"]))
            self.modes[key] = json.loads(ran)["Isolation"]
        return self.modes[key]

    def row(self, name, *cells):
        print("  ".join(str(cell).ljust(width) for cell, width in zip([name, *cells], (46, 16, 8, 40))), flush=True)

    def run(self, name, image, words, options=(), expected=None, code=0, says=None, folder="app", script=""):
        """One `docker run`; `expected` is the digest that the build has to write to `digest`. `script` is what it gets to read."""
        path = os.path.join(self.dir, folder)
        digest = os.path.join(path, "digest")
        if os.path.exists(digest):
            os.remove(digest)
        started = time.time()
        ran = sh([*self.docker, "run", "--rm", "-i", *self.options, "-v", f"{path.replace(self.dir, self.seen)}:/workspace",
            "-e", f"SOURCE_DATE_EPOCH={EPOCH}", *options, image, *words], script)
        took = time.time() - started
        said = ran.stdout + ran.stderr
        mode = self.mode(options)
        mode += ", copies" if "steps run on copies" in said else ""
        found = open(digest).read() if os.path.exists(digest) else None
        wrong = []
        if ran.returncode != code:
            wrong.append(f"exit status {ran.returncode}")
        if expected and found != expected:
            wrong.append(f"digest {found}, on the host {expected}")
        if says and not re.search(says, said):
            wrong.append(f"does not say {says}")
        self.row(name, mode, f"{took:.2f} s", "as it should be" if not wrong else "; ".join(wrong))
        if wrong:
            self.failed.append(name)
            print(said)
        return ran


def cases(test):
    whole, plain = test.context("app", DOCKERFILE), test.context("norun", WITHOUT_RUN)
    small, debug = "mica-image:small", "mica-image:debug"
    build = ["--context", "dir:///workspace", "--dockerfile", "Dockerfile", "--no-push", "--digest-file", "digest"]
    test.run("docker run, as root", small, build, expected=whole)
    volume = os.path.basename(test.dir)
    kept = ["-v", f"{volume}:/var/lib"]
    test.run("  a store that lasts, empty", small, build, kept, expected=whole)
    test.run("  a store that lasts, all known", small, build, kept, expected=whole, says="CACHED")
    shared = os.path.join(test.dir, "shared")
    os.mkdir(shared)
    os.chmod(shared, 0o777)
    test.run("  the store in a folder of everybody's", small, build, ["-v", f"{shared.replace(test.dir, test.seen)}:/var/lib"], expected=whole)
    must(sh([*test.docker, "volume", "rm", "-f", volume]))
    test.run("  the store on the container's own root", small, [*build, "--root=/tmp/store"], expected=whole)
    test.run("  nothing given but --no-push", small, ["--no-push", "--digest-file=digest"], expected=whole)
    test.run("  --read-only", small, build, ["--read-only"], expected=whole)
    test.run("  no-new-privileges", small, build, ["--security-opt", "no-new-privileges"], expected=whole)
    test.run("  --privileged", small, build, ["--privileged"], expected=whole)
    unconfined = ["--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"]
    user = ["--user", "1000:1000"]
    test.run("no capabilities, with RUN", small, build, ["--cap-drop", "ALL"], code=1, says="chroot: Operation not permitted")
    test.run("as a user, without RUN", small, build, user, expected=plain, folder="norun")
    test.run("as a user, with RUN", small, build, user, code=1, says="--security-opt seccomp=unconfined")
    if test.mode(unconfined) == "chroot":
        print("skipped: seccomp=unconfined: containers of this machine have no user namespaces even so")
    else:
        test.run("seccomp=unconfined", small, build, unconfined, expected=whole)
        test.run("as a user, seccomp=unconfined", small, build, [*user, *unconfined], expected=whole)
    name = f"{test.args.registry or 'registry.example'}/mica-image-test"
    to = [f"--destination={name}:1", *([] if test.args.registry else ["--no-push"])]
    variables = ["-e", "CI_PROJECT_DIR=/workspace", "-e", f"CI_REGISTRY_IMAGE={name}", "-e", "CI_REGISTRY=registry.example",
        "-e", "CI_REGISTRY_USER=me", "-e", "CI_REGISTRY_PASSWORD=secret", "-e", "CI_COMMIT_SHORT_SHA=0123abcd"]
    script = r"""set -eo pipefail
        cd "$CI_PROJECT_DIR"
        echo "{\"auths\":{\"$CI_REGISTRY\":{\"username\":\"$CI_REGISTRY_USER\",\"password\":\"$CI_REGISTRY_PASSWORD\"}}}" > /kaniko/.docker/config.json
        /kaniko/executor --context "$CI_PROJECT_DIR" --dockerfile "$CI_PROJECT_DIR/Dockerfile" \
            --destination "$CI_REGISTRY_IMAGE:$CI_COMMIT_SHORT_SHA" --digest-file digest CACHE
        mica version; executor version""".replace("CACHE", "--cache=true" if test.args.registry else "--no-push")
    test.run("GitLab: :debug, no entrypoint, a script", debug, ["sh", "-c", DETECT], ["--entrypoint", "", *variables], expected=whole, script=script)
    pod = ["--entrypoint", "", "-e", "WORKSPACE=/workspace", "-e", "BUILD_NUMBER=1"]
    line = f'/kaniko/executor --context "$WORKSPACE" {to[0].replace(":1", ":$BUILD_NUMBER")} {" ".join(to[1:])} --digest-file digest'
    test.run("Jenkins: :debug that sleeps, and its step", debug, ["sh", "-c", f"sleep 1 & cd $WORKSPACE && {line}"], pod, expected=whole)
    args = ["--context=/workspace", *to, "--digest-file=/workspace/digest"]
    test.run("Tekton: the arguments of its step", small, args, ["--workdir", "/workspace"], expected=whole)
    test.run("the flags of mica build", small, ["-t", "app", "-o", "type=oci,dest=out.tar", "."])
    if test.args.registry:
        push = ["--context", "/workspace", "--destination", f"{name}:1", "--insecure", "--digest-file", "digest"]
        test.run("push", small, push, expected=whole)
        cache = [*push, "--cache=true", "--cache-repo", f"{name}/cache"]
        test.run("  and its cache, empty", small, cache, expected=whole)
        test.run("  another container finds it all", small, cache, expected=whole, says="CACHED")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mica", required=True)
    parser.add_argument("--docker", default="docker")
    parser.add_argument("--options", default="")
    parser.add_argument("--share")
    parser.add_argument("--registry")
    parser.add_argument("--certs", default="/etc/ssl/certs")
    parser.add_argument("--keep", action="store_true")
    test = Test(parser.parse_args())
    try:
        test.images()
        cases(test)
    finally:
        if not test.args.keep:
            sh([*test.docker, "rmi", "-f", "mica-image:small", "mica-image:debug"])
            shutil.rmtree(test.dir)
    return 1 if test.failed else 0


if __name__ == "__main__":
    sys.exit(main())
