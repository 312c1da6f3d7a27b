#!/usr/bin/env python3
"""Builds one Dockerfile, and runs a conformance suite if there is one, in each mode of isolation that this machine offers.

  modes.py --mica PATH [--docker 'docker'] [--image IMAGE] [--options OPTIONS] [--share DIR=SEEN] [--conformance PATH/TO/run.py] [--only MODE,...]

PATH is a static binary: containers get it as it is. IMAGE is one with a shell that the Docker Engine has (default: busybox).
Containers run mica with a folder of the host mounted at the same path; if Docker runs in another root, `--share /outside=/inside`
says how it calls a folder that both see. The table says of each place which mode mica took, whether the image is that of root, and how
many cases of the suite passed. Needs root. The exit status is 1 where an image differs.
"""
import argparse, json, os, re, shlex, shutil, stat, subprocess, sys, tarfile, tempfile

BUSYBOX = "/bin/busybox"
EPOCH = "1600000000"
DOCKERFILE = """\
FROM base
COPY --chown=1000:1001 data /data/
RUN mkdir -p /srv/app && echo hi >/srv/app/f && chown -R 33:33 /srv && chmod 4755 /srv/app/f && ln -s f /srv/app/l && chown -h 5 /srv/app/l
RUN mknod /null c 1 3 && rm /data/gone && echo more >>/data/kept && rm -r /opt/old && mkdir /opt/old && touch /opt/old/new
USER 1234:1235
RUN echo mine >/tmp/mine && mkdir /tmp/dir
"""
WITHOUT_RUN = "FROM base AS one\nCOPY data /data/\nFROM base\nCOPY --chown=7 --from=one /data /copied/\nWORKDIR /srv\n"


def base(path):
    with tarfile.open(path, "w") as tar:
        def add(name, kind=tarfile.DIRTYPE, mode=0o755, **more):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = kind, mode
            for key, value in more.items():
                setattr(entry, key, value)
            tar.addfile(entry)
        for name in ("bin", "etc", "opt", "opt/old"):
            add(name)
        add("tmp", mode=0o1777)
        with open(BUSYBOX, "rb") as file:
            entry = tarfile.TarInfo("bin/busybox")
            entry.mode, entry.size = 0o755, os.fstat(file.fileno()).st_size
            tar.addfile(entry, file)
        for applet in subprocess.check_output([BUSYBOX, "--list"], text=True).split():
            if applet != "busybox":
                add(f"bin/{applet}", tarfile.SYMTYPE, linkname="busybox")
        add("opt/old/file", tarfile.REGTYPE)


class Place:
    """Somewhere to run mica: `words` go in front of its command line."""

    def __init__(self, name, words, user=0, store=None):
        self.name, self.words, self.user, self.store = name, words, user, store

    def run(self, *args, **more):
        words = [*self.words, *args]
        return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, **more)


def places(args, shared, seen):
    mica = os.path.join(shared, "mica")
    user = lambda uid: ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "env", f"HOME={shared}", mica]
    yield Place("root", [mica])
    text = open("/etc/subuid").read() if os.path.exists("/etc/subuid") else ""
    many = next((line.split(":")[0] for line in text.splitlines() if not line.startswith("root:")), None)
    if many:
        uid = subprocess.check_output(["id", "-u", many], text=True).strip()
        yield Place("user with subordinate ids", user(uid), int(uid))
    yield Place("user without subordinate ids", user("4321"), 4321)
    yield Place("root, chroot asked for", ["env", "MICA_ISOLATION=chroot", mica])
    if not args.docker:
        return
    docker = shlex.split(args.docker)
    for name, options, uid, store in (
        ("container", [], 0, None),
        ("container, store on its overlay", [], 0, "/store"),
        ("container, seccomp=unconfined", ["--security-opt", "seccomp=unconfined"], 0, None),
        ("container, seccomp=unconfined, store on its overlay", ["--security-opt", "seccomp=unconfined"], 0, "/store"),
        ("container, user 1000", ["--user", "1000"], 1000, None),
        ("container, user 1000, seccomp=unconfined", ["--user", "1000", "--security-opt", "seccomp=unconfined"], 1000, None),
        ("container, no capabilities", ["--cap-drop", "ALL"], 0, None),
        ("container, privileged", ["--privileged"], 0, None),
    ):
        run = [*docker, "run", "--rm", "--network", "host", "-e", f"HOME={shared}", "-v", f"{seen}:{shared}", *options,
               *shlex.split(args.options), args.image]
        mica = os.path.join(shared, "mica")
        if store:
            # The store goes with the container.
            load = f'{mica} --root {store} load -i {shared}/archive.tar >/dev/null && exec {mica} "$@"'
            yield Place(name, [*run, "sh", "-c", load, "mica"], uid, store)
        else:
            yield Place(name, [*run, mica], uid, store)


def conformance(args, place, shared):
    if not args.conformance:
        return "-"
    wrapper = os.path.join(shared, "wrapper")
    with open(wrapper, "w") as file:
        file.write("#!/bin/sh\nexec " + shlex.join(place.words) + ' "$@"\n')
    os.chmod(wrapper, 0o755)
    words = [sys.executable, args.conformance, "--mica", wrapper, "-j", "2"]
    if place.user:
        words = ["setpriv", "--reuid", str(place.user), "--regid", str(place.user), "--clear-groups", *words]
    ran = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "TMPDIR": os.path.join(shared, "tmp")})
    found = re.search(r"(\d+) passed, (\d+) failed", ran.stdout)
    with open(os.path.join(args.logs, re.sub(r"\W+", "-", place.name) + ".log"), "w") as file:
        file.write(ran.stdout + ran.stderr)
    return found[0] if found else "did not run"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mica", required=True)
    parser.add_argument("--docker")
    parser.add_argument("--image", default="busybox")
    parser.add_argument("--options", default="", help="more options of `docker run`")
    parser.add_argument("--share", default="", metavar="DIR=SEEN")
    parser.add_argument("--conformance", metavar="RUN.PY")
    parser.add_argument("--logs", default=".", help="where the suite's logs go")
    parser.add_argument("--only", default="", help="names of places, or parts of them, with commas")
    args = parser.parse_args()
    outside, _, inside = args.share.partition("=")
    shared = tempfile.mkdtemp(prefix="mica-modes-", dir=outside or None)
    seen = shared.replace(outside, inside, 1) if outside else shared
    os.chmod(shared, 0o755)
    shutil.copy(args.mica, os.path.join(shared, "mica"))
    os.mkdir(os.path.join(shared, "tmp"))
    os.chmod(os.path.join(shared, "tmp"), 0o1777)
    for name, text in (("full", DOCKERFILE), ("copy", WITHOUT_RUN)):
        context = os.path.join(shared, name)
        os.makedirs(os.path.join(context, "data"))
        for path, content in (("Dockerfile", text), ("data/gone", "gone\n"), ("data/kept", "kept\n")):
            with open(os.path.join(context, path), "w") as file:
                file.write(content)
        for folder, _, files in os.walk(context):
            for it in [folder, *(os.path.join(folder, it) for it in files)]:
                os.utime(it, (1500000000, 1500000000))
    base(os.path.join(shared, "base.tar"))
    archive = os.path.join(shared, "archive.tar")
    rows, expected, differs = [("place", "mode", "image", "suite")], {}, False
    wanted = [it for it in args.only.split(",") if it]
    for number, place in enumerate(places(args, shared, seen)):
        if wanted and place.name != "root" and not any(it in place.name for it in wanted):
            continue
        store = place.store or os.path.join(shared, f"store{number}")
        if not place.store:
            os.mkdir(store, 0o700)
            os.chown(store, place.user, place.user)
        mica = lambda *words: place.run("--root", store, *words)
        info = mica("info", "--format", "json")
        mode = json.loads(info.stdout)["Isolation"] if info.returncode == 0 else info.stderr.strip()
        if number == 0:
            mica("import", os.path.join(shared, "base.tar"), "base", "--change", "ENV PATH=/bin").check_returncode()
            mica("save", "-o", archive, "base").check_returncode()
            os.chmod(archive, 0o644)
        elif mica("load", "-i", archive).returncode:
            rows.append((place.name, mode, "can't load an image", "-"))
            continue
        results = []
        for name in ("full", "copy"):
            built = mica("build", "-q", "--source-date-epoch", EPOCH, os.path.join(shared, name))
            image = built.stdout.strip()
            if built.returncode:
                results.append(f"{name}: " + next((it for it in built.stderr.splitlines() if it.startswith("error")), "failed")[:70])
                differs |= mode != "none" or name == "copy"
            elif image == expected.setdefault(name, image):
                results.append(f"{name}: same")
            else:
                results.append(f"{name}: differs, {image[7:19]}")
                differs = True
        rows.append((place.name, mode, "; ".join(results), conformance(args, place, shared)))
        print("  ".join(rows[-1]), file=sys.stderr)
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    shutil.rmtree(shared, ignore_errors=True)
    return int(differs)


if __name__ == "__main__":
    sys.exit(main())
