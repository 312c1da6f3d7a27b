#!/usr/bin/env python3
"""Builds the same Dockerfiles in each mode of isolation that this machine offers, with a conformance suite if there is one.

  modes.py --mica PATH [--docker 'docker'] [--image IMAGE] [--options OPTIONS] [--share DIR=SEEN]
           [--conformance PATH/TO/run.py] [--only PLACE,...]

PATH is a static binary: containers get it as it is. IMAGE is one with a shell that the Docker Engine has (default: busybox).
Containers run mica with a folder of the host mounted at the same path; if Docker runs in another root, `--share /outside=/inside`
says how it calls a folder that both see. Needs root.

The table says of each place which mode mica took there, whether its images are those of root, digest for digest (`full`: each kind
of change; `copy`: without RUN; `hello`: README's example, which is run, too), and how many cases of the suite pass. Cases that root
passes and another mode doesn't are excepted by name below, with the reason, or are a fault. The exit status is 1 where an image
differs or a case fails that is not excepted. What this machine can't do is left out by name.
"""
import argparse, json, os, re, shlex, shutil, subprocess, sys, tarfile, tempfile, time

BUSYBOX = "/bin/busybox"
# One that every user can run.
PYTHON = "/usr/bin/python3"
EPOCH = "1600000000"
HERE = os.path.dirname(os.path.abspath(__file__))
HELLO = os.path.join(HERE, "..", "..", "examples", "hello")
# What Docker gives to a container's root.
CAPABILITIES = ("chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service net_raw sys_chroot mknod audit_write "
                "setfcap").split()
DOCKERFILE = """\
FROM base
COPY --chown=1000:1001 data /data/
RUN mkdir -p /srv/app && echo hi >/srv/app/f && chown -R 33:33 /srv && chmod 4755 /srv/app/f && ln -s f /srv/app/l && chown -h 5 /srv/app/l
RUN mknod /null c 1 3 && rm /data/gone && echo more >>/data/kept && rm -r /opt/old && mkdir /opt/old && touch /opt/old/new
RUN echo same | cat /dev/stdin >/dev/fd/1 && readlink /proc/self/exe >/exe
USER 1234:1235
RUN echo mine >/tmp/mine && mkdir /tmp/dir
"""
WITHOUT_RUN = "FROM base AS one\nCOPY data /data/\nFROM base\nCOPY --chown=7 --from=one /data /copied/\nWORKDIR /srv\n"
# Cases of the suite that can't be had in a mode, as docs/isolation.md says.
EXCEPTED = {
    "userns, one id": {
        "bud-mount-cache-by-ownership": "`cp -a` reads owners",
        "kan-issue-1315": "`stat` reads owners",
        "mount-secret-file": "`stat` reads the owner of a secret",
        "run-umask-hostname-ids": "`/proc/self/status` shows the kernel's groups",
    },
    # Without NET_ADMIN, as with `--cap-add SYS_ADMIN` alone.
    "root": {"run-network-flags": "the loopback of `--network=none` can't be brought up"},
    "chroot": {
        "layer-hardlink-to-base": "`ls -l` counts the names of a file: hard links of the image part before the step",
        "layer-mount-dirs-written": "`/proc` and `/sys` are folders, so a folder can be made there",
        "mount-bind-readonly": "a read-only mount is a copy, which can be written to no effect",
        "run-kill-self-pid1": "the shell is not process 1, which no signal of its own ends",
        "run-network-flags": "`--network=none` is refused",
        "run-umask-hostname-ids": "`/proc/self/status` shows `NoNewPrivs: 1`",
    },
}
COLUMNS = ("place", "mode", "images", "suite", "time")


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

    def __init__(self, name, words, user=0, container=None, store=None):
        self.name, self.words, self.user, self.store = name, words, user, store
        self.container, self.number = container, 0

    def run(self, *args):
        return subprocess.run([*self.words, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)

    def close(self):
        if self.container:
            subprocess.run([*self.container[0], "rm", "-f", self.container[1]], capture_output=True)


def as_user(uid):
    return ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups"]


def left_out(name, reason):
    print(f"left out: {name}: {reason}", file=sys.stderr)


def places(args, shared, seen):
    mica = os.path.join(shared, "mica")
    user = lambda uid: [*as_user(uid), "env", f"HOME={shared}", mica]
    yield Place("root", [mica])
    text = open("/etc/subuid").read() if os.path.exists("/etc/subuid") else ""
    many = next((line.split(":")[0] for line in text.splitlines() if not line.startswith("root:")), None)
    if many and shutil.which("newuidmap"):
        uid = subprocess.check_output(["id", "-u", many], text=True).strip()
        yield Place("user with subordinate ids", user(uid), int(uid))
    else:
        left_out("user with subordinate ids", "none in /etc/subuid, or no newuidmap")
    yield Place("user without subordinate ids", user("4321"), 4321)
    kept = "-all," + ",".join(f"+{it}" for it in CAPABILITIES)
    yield Place("root with Docker's capabilities", ["setpriv", "--bounding-set", kept, "--inh-caps=-all", mica])
    yield Place("root, `--isolation chroot`", ["env", "MICA_ISOLATION=chroot", mica])
    if args.docker:
        yield from containers(args, mica, shared, seen)
    else:
        left_out("containers", "no --docker")


def containers(args, mica, shared, seen):
    docker, open_filter = shlex.split(args.docker), ["--security-opt", "seccomp=unconfined"]
    for number, (name, options, user, store) in enumerate((
        ("container", [], 0, None),
        ("container, store on its overlay", [], 0, "/store"),
        ("container, seccomp=unconfined", open_filter, 0, None),
        ("container, seccomp=unconfined, store on its overlay", open_filter, 0, "/store"),
        ("container, --cap-add SYS_ADMIN", ["--cap-add", "SYS_ADMIN"], 0, None),
        ("container, --user 1000", ["--user", "1000"], 1000, None),
        ("container, --user 1000, seccomp=unconfined", ["--user", "1000", *open_filter], 1000, None),
        ("container, --cap-drop ALL", ["--cap-drop", "ALL"], 0, None),
        ("container, --privileged", ["--privileged"], 0, None),
    )):
        container = f"mica-modes-{os.getpid()}-{number}"
        run = [*docker, "run", "-d", "--name", container, "--network", "host", "-e", f"HOME={shared}",
               "-v", f"{seen}:{shared}", *options, *shlex.split(args.options), args.image, "sleep", "7200"]
        started = subprocess.run(run, capture_output=True, text=True)
        place = Place(name, [*docker, "exec", container, mica], user, (docker, container), store)
        if started.returncode:
            left_out(name, started.stderr.strip())
            place.close()
            continue
        yield place


def mode_of(place, store):
    info = place.run("--root", store, "info", "--format", "json")
    if info.returncode:
        return info.stderr.strip()
    info = json.loads(info.stdout)
    if info["Isolation"] != "userns":
        return info["Isolation"]
    return "userns, one id" if "with your id alone" in info["IsolationReason"] else "userns, many ids"


def images(place, mode, store, shared, expected):
    """What came of the Dockerfiles, in words, and whether it is what it should be."""
    words, good = [], True
    mica = lambda *args: place.run("--root", store, *args)
    for name in ("full", "copy", "hello"):
        more = ["--build-context", f"mica={shared}/bin"] if name == "hello" else []
        built = mica("build", "-q", "-t", name, "--source-date-epoch", EPOCH, *more, os.path.join(shared, name))
        image = built.stdout.strip()
        if built.returncode and mode == "none" and name != "copy":
            words.append(f"{name}: refused")
        elif built.returncode:
            why = next((it for it in built.stderr.splitlines() if it.startswith("error")), "failed")[:100]
            words, good = [*words, f"{name}: {why}"], False
        elif image != expected.setdefault(name, image):
            words, good = [*words, f"{name}: **{image[7:19]}**"], False
        else:
            words.append(f"{name} {image[7:15]}")
    if mode != "none" and not (ran := mica("run", "--rm", "hello")).stdout.startswith("mica "):
        words, good = [*words, f"hello does not run: {ran.stderr.strip()[:100]}"], False
    return ", ".join(words), good


def suite(args, place, mode, shared, passed_by_root):
    """How many cases pass, in words, and whether those that fail may."""
    if not args.conformance or mode == "none":
        return "-", True
    if place.user and place.container:
        left_out(f"{place.name}: the suite", "a user has no way to the Docker Engine; it is that of the same mode outside")
        return "-", True
    before = as_user(place.user) if place.user else []
    wrapper, results = os.path.join(shared, "wrapper"), os.path.join(shared, "tmp", f"results-{place.number}.json")
    with open(wrapper, "w") as file:
        file.write(WRAPPER.format(words=place.words[len(before):], container=bool(place.container), known=sorted(os.environ)))
    os.chmod(wrapper, 0o755)
    words = [*before, PYTHON, args.conformance, "--mica", wrapper, "-j", "2", "--json", results]
    with open(os.path.join(args.logs, re.sub(r"\W+", "-", place.name) + ".log"), "w") as log:
        subprocess.run(words, stdout=log, stderr=log, env={**os.environ, "TMPDIR": os.path.join(shared, "tmp")})
    if not os.path.exists(results):
        return "did not run", False
    cases = json.load(open(results))["results"]
    passed = {it["name"] for it in cases if it["status"] == "pass"}
    if place.name == "root":
        passed_by_root |= passed
    lost = passed_by_root - passed
    faults = sorted(lost - EXCEPTED.get(mode, {}).keys())
    words = f"{len(passed)} of {len(cases)}"
    if lost:
        words += f", {len(lost) - len(faults)} excepted"
    more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
    return words + "".join(f", **{it}**" for it in faults[:5]) + more, not faults


# Runs mica for the suite; a container is told of the variables that the suite sets.
WRAPPER = """\
#!/usr/bin/python3
import os, sys
words, known = {words!r}, {known!r}
if {container!r}:
    at = words.index("exec") + 1
    words[at:at] = [it for name in os.environ if name not in known for it in ("-e", name)]
os.execvp(words[0], words + sys.argv[1:])
"""


def prepare(args, shared):
    os.chmod(shared, 0o755)
    os.mkdir(os.path.join(shared, "bin"))
    for path in ("mica", "bin/mica"):
        shutil.copy(args.mica, os.path.join(shared, path))
    os.mkdir(os.path.join(shared, "tmp"))
    os.chmod(os.path.join(shared, "tmp"), 0o1777)
    shutil.copytree(HELLO, os.path.join(shared, "hello"))
    for name, text in (("full", DOCKERFILE), ("copy", WITHOUT_RUN)):
        context = os.path.join(shared, name)
        os.makedirs(os.path.join(context, "data"))
        for path, content in (("Dockerfile", text), ("data/gone", "gone\n"), ("data/kept", "kept\n")):
            with open(os.path.join(context, path), "w") as file:
                file.write(content)
    for name in ("bin", "full", "copy", "hello"):
        for folder, _, files in os.walk(os.path.join(shared, name)):
            for it in [folder, *(os.path.join(folder, it) for it in files)]:
                os.utime(it, (1500000000, 1500000000))
    base(os.path.join(shared, "base.tar"))
    if args.conformance:
        # Every user is to be able to read it, and to rename folders of copies.
        copy = shutil.copytree(os.path.dirname(os.path.abspath(args.conformance)), os.path.join(shared, "suite"), symlinks=True)
        subprocess.run(["chmod", "-R", "u+w,go+rX", copy], check=True)
        args.conformance = os.path.join(copy, os.path.basename(args.conformance))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mica", required=True)
    parser.add_argument("--docker")
    parser.add_argument("--image", default="busybox")
    parser.add_argument("--options", default="", help="more options of `docker run`")
    parser.add_argument("--share", default="", metavar="DIR=SEEN")
    parser.add_argument("--conformance", metavar="RUN.PY")
    parser.add_argument("--logs", default=tempfile.gettempdir(), help="where the suite's logs go")
    parser.add_argument("--only", default="", help="names of places, or parts of them, with semicolons; root goes first always")
    args = parser.parse_args()
    outside, _, inside = args.share.partition("=")
    shared = tempfile.mkdtemp(prefix="mica-modes-", dir=outside or None)
    seen = shared.replace(outside, inside, 1) if outside else shared
    prepare(args, shared)
    archive = os.path.join(shared, "archive.tar")
    rows, expected, passed_by_root, good = [COLUMNS, ["---"] * len(COLUMNS)], {}, set(), True
    wanted = [it for it in args.only.split(";") if it]
    for number, place in enumerate(places(args, shared, seen)):
        if number and wanted and not any(it in place.name for it in wanted):
            place.close()
            continue
        place.number = number
        began, store = time.monotonic(), place.store or os.path.join(shared, f"store{number}")
        if not place.store:
            os.mkdir(store, 0o700)
            os.chown(store, place.user, place.user)
        if not number:
            place.run("--root", store, "import", os.path.join(shared, "base.tar"), "base", "--change", "ENV PATH=/bin").check_returncode()
            place.run("--root", store, "save", "-o", archive, "base").check_returncode()
            os.chmod(archive, 0o644)
        mode = mode_of(place, store)
        if place.run("--root", store, "load", "-i", archive).returncode:
            row, fine = [place.name, mode, "can't load an image", "-"], False
        else:
            (made, same), (cases, fine) = images(place, mode, store, shared, expected), suite(args, place, mode, shared, passed_by_root)
            row, fine = [place.name, mode, made, cases], same and fine
        place.close()
        good &= fine
        rows.append([*row, f"{time.monotonic() - began:.0f} s"])
        print("  ".join(rows[-1]), file=sys.stderr)
    for row in rows:
        print("| " + " | ".join(row) + " |")
    shutil.rmtree(shared, ignore_errors=True)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
