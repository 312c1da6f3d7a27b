#!/usr/bin/env python3
"""Builds Dockerfiles with mica and with Docker, and tells in what the images differ.

    differential.py --mica target/debug/mica --docker docker --busybox /bin/busybox cases/*.txt
    differential.py --mica target/debug/mica --docker docker --busybox /bin/busybox --seed 1 --count 200
    differential.py --print --seed 17

Cases come from files (`case.py` tells how they are written) and from a generator: one seed is one case, always the
same. Images of both are called `mica-diff/...`, and are removed again. Docker must see the folder for temporary
files (`$TMPDIR`) under the same path. Busybox has to be linked statically.

Exits with 1 if a case differs that is not known to.
"""

import argparse
import concurrent.futures
import fnmatch
import os
import shlex
import shutil
import subprocess
import sys
import tempfile

import case
import generate
import image

BASE = r"""
FROM scratch
COPY --chmod=755 busybox /bin/busybox
RUN ["/bin/busybox", "sh", "-c", "/bin/busybox --install -s /bin && mkdir -p /etc /root /tmp /home/user && chmod 1777 /tmp && printf 'root:x:0:0::/root:/bin/sh\nuser:x:1000:1001::/home/user:/bin/sh\nother:x:1002:1002::/:/bin/sh\n' >/etc/passwd && printf 'root:x:0:\nuser:x:1001:\nstaff:x:50:user\n' >/etc/group && chown 1000:1001 /home/user"]
RUN mkdir -p /tree/sub/deep /tree/shut && echo a >/tree/a && echo b >/tree/sub/b && chmod 600 /tree/sub/b && chown 1000:50 /tree/sub \
 && ln /tree/a /tree/sub/hard && ln -s sub /tree/link && ln -s /tree/a /tree/to-a && ln -s nowhere /tree/dangling && ln -s loop /tree/loop \
 && chmod 700 /tree/shut && chmod 2775 /tree/sub/deep && mkfifo /tree/fifo
ENV PATH=/bin BASE=base
CMD ["sh"]
"""
TRIGGERS = r"""
FROM mica-diff/base
USER user
WORKDIR /work
ENV WHO=triggers
LABEL of=triggers
EXPOSE 80
VOLUME /volume
HEALTHCHECK --interval=5s CMD true
ENTRYPOINT ["/bin/sh", "-c"]
STOPSIGNAL SIGINT
ONBUILD ARG TRIGGER=default
ONBUILD ENV TRIGGERED=$TRIGGER
ONBUILD RUN echo $TRIGGERED > /work/triggered || echo $TRIGGERED > /tmp/triggered
"""


class Builder:
    """A program with Docker's commands."""

    def __init__(self, name, command, build):
        self.name, self.command, self.build_options = name, command, build

    def call(self, *words, timeout=120):
        """Runs a command; gives whether it went well, and what it said."""
        try:
            done = subprocess.run(self.command + list(words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            return False, f"did not end within {timeout} seconds"
        return done.returncode == 0, done.stdout.decode("utf-8", "replace")

    def build(self, tag, context, options=()):
        return self.call("build", *self.build_options, "-f", os.path.join(context, "Dockerfile"), "-t", tag, *options, context)

    def must(self, *words):
        went_well, output = self.call(*words)
        if not went_well:
            sys.exit(f"{self.name} {shlex.join(words)}: {output}")


def make_bases(docker, mica, folder, busybox):
    """The images that cases start from are made by Docker, and are the same bytes for both."""
    for name, dockerfile in (("base", BASE), ("triggers", TRIGGERS)):
        context = os.path.join(folder, f"{os.path.basename(folder)}-{name}")
        case.Case(name, dockerfile=dockerfile).prepare(context)
        shutil.copy(busybox, os.path.join(context, "busybox"))
        went_well, output = docker.build(f"mica-diff/{name}", context)
        if not went_well:
            sys.exit(output)
        archive = os.path.join(folder, name + ".tar")
        docker.must("save", "-o", archive, f"mica-diff/{name}")
        mica.must("load", "-i", archive)


def compare(one, docker, mica, folder):
    """Builds a case with both; gives what differs, and what they said."""
    # Docker takes a file of a folder of this name for one that it knows by its size and time.
    context = os.path.join(folder, f"{os.path.basename(folder)}-{one.name}")
    tag = f"mica-diff/case-{one.name}".lower()
    images, outputs = {}, {}
    try:
        one.prepare(context)
        options = [option.replace("{context}", context) for option in one.options]
        for builder in (docker, mica):
            went_well, outputs[builder.name] = builder.build(tag, context, options)
            if "panicked at" in outputs[builder.name]:
                return [f"{builder.name} panicked"], outputs
            if went_well:
                archive = f"{context}.{builder.name}.tar"
                saved, said = builder.call("save", "-o", archive, tag)
                # Docker has no archive for an image without layers.
                images[builder.name] = image.Image.read(archive) if saved else None
                if not saved and "empty export" not in said:
                    return [f"{builder.name} save: {said}"], outputs
                if not saved:
                    continue
                os.unlink(archive)
        if "docker" in images:
            docker.call("rmi", tag)
        if len(images) == 1:
            return [f"only {next(iter(images))} builds it"], outputs
        if not images or images["docker"] is None:
            return [], outputs
        return list(image.differences(images["docker"], images["mica"])), outputs
    finally:
        shutil.rmtree(context, ignore_errors=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="files of cases")
    parser.add_argument("--mica", help="the binary")
    parser.add_argument("--docker", default="docker", help="the command, with words before it if need be")
    parser.add_argument("--busybox", default="/bin/busybox")
    parser.add_argument("--seed", type=int, help="of the first generated case")
    parser.add_argument("--count", type=int, default=1, help="of generated cases")
    parser.add_argument("--only", default="*", help="names of cases, with wildcards")
    parser.add_argument("--print", action="store_true", help="print the cases, build nothing")
    parser.add_argument("-j", type=int, default=1, help="cases at once; Docker mixes up contexts of builds at once, rarely")
    parser.add_argument("-v", action="store_true", help="print what the builders said of cases that differ")
    return parser.parse_args()


def main():
    args = arguments()
    cases = [one for name in args.files for one in case.parse(open(name, encoding="utf-8").read())]
    if args.seed is not None:
        texts = [generate.case_text(seed) for seed in range(args.seed, args.seed + args.count)]
        if args.print:
            return print("\n".join(texts))
        cases += [one for text in texts for one in case.parse(text)]
    cases = [one for one in cases if fnmatch.fnmatch(one.name, args.only)]
    differ, refused = 0, 0
    with tempfile.TemporaryDirectory(prefix="mica-diff-") as folder:
        docker = Builder("docker", shlex.split(args.docker), ["--progress", "plain", "--no-cache", "--network", "host"])
        mica = Builder("mica", [os.path.abspath(args.mica), "--root", os.path.join(folder, "store")], [])
        make_bases(docker, mica, folder, args.busybox)
        with concurrent.futures.ThreadPoolExecutor(args.j) as pool:
            done = pool.map(lambda one: compare(one, docker, mica, folder), cases)
            for one, (lines, outputs) in zip(cases, done):
                refused += "ERROR" in outputs.get("docker", "")
                if not lines and not one.differs:
                    continue
                differ += not one.differs
                print(f"{one.name}: {f'differs on purpose: {one.differs}' if one.differs else ''}")
                for line in lines if not one.differs else []:
                    print("    " + line[:600])
                if args.v and lines:
                    print(one.dockerfile, *outputs.values(), sep="\n--\n")
        docker.call("rmi", "mica-diff/triggers", "mica-diff/base")
    print(f"{len(cases)} cases, of which Docker refuses {refused}; {differ} differ")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
