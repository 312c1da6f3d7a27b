"""A case: what lies in a build context, the options of the build, and a Dockerfile. As text:

    === name
    file PATH [TEXT [MODE]]        a file; `\\n` in the text is a newline
    dir PATH [MODE]
    link PATH TARGET               a symbolic link
    hard PATH EXISTING             a hard link
    fifo PATH
    archive PATH COMPRESSION MEMBER...
                                   a tar; compression is one of none gzip bzip2 xz zstd, and a member one of
                                   file:NAME:TEXT[:MODE[:UID]] dir:NAME[:MODE] link:NAME:TARGET hard:NAME:NAME
    bytes PATH HEX
    ignore PATTERN...              the lines of `.dockerignore`
    options WORD...                of the build; `{context}` is the context's path
    like NAME                      all that an earlier case of the file has before its Dockerfile
    differs REASON                 mica and Docker are known to differ here, on purpose
    ---
    the Dockerfile, to the next `===`

Words are split as a shell does it. Lines before the first `===` are a comment.
"""

import bz2
import gzip
import io
import lzma
import os
import shlex
import subprocess
import tarfile
from dataclasses import dataclass, field

# The time of all that lies in a context.
MTIME = 1_500_000_000
COMPRESS = {
    "none": bytes,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: subprocess.run(["zstd", "-qc"], input=data, stdout=subprocess.PIPE, check=True).stdout,
}


@dataclass
class Case:
    name: str
    setup: list = field(default_factory=list)
    options: list = field(default_factory=list)
    differs: str = ""
    dockerfile: str = ""

    def prepare(self, context):
        """Makes the context and the Dockerfile in it."""
        os.makedirs(context)
        modes = []
        for verb, *words in [["file", "Dockerfile", self.dockerfile], *self.setup]:
            if verb == "ignore":
                verb, words = "file", [".dockerignore", "\n".join(words)]
            path = os.path.join(context, words[0])
            os.makedirs(os.path.dirname(path), exist_ok=True)
            getattr(self, "make_" + verb)(context, path, modes, *words[1:])
        for path, mode in reversed(modes):
            os.chmod(path, mode)
        for folder, folders, files in os.walk(context, topdown=False):
            for name in folders + files:
                os.utime(os.path.join(folder, name), (MTIME, MTIME), follow_symlinks=False)

    @staticmethod
    def make_file(_, path, modes, text="", mode="644"):
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(text.replace("\\n", "\n") if os.path.basename(path) != "Dockerfile" else text)
        modes.append((path, int(mode, 8)))

    @staticmethod
    def make_bytes(_, path, modes, text):
        with open(path, "wb") as file:
            file.write(bytes.fromhex(text))
        modes.append((path, 0o644))

    @staticmethod
    def make_dir(_, path, modes, mode="755"):
        os.makedirs(path, exist_ok=True)
        modes.append((path, int(mode, 8)))

    @staticmethod
    def make_link(_, path, _modes, target):
        os.symlink(target, path)

    @staticmethod
    def make_hard(context, path, _modes, existing):
        os.link(os.path.join(context, existing), path)

    @staticmethod
    def make_fifo(_, path, modes):
        os.mkfifo(path)
        modes.append((path, 0o644))

    @staticmethod
    def make_archive(_, path, modes, compression, *members):
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for member in members:
                add_member(archive, *member.split(":"))
        with open(path, "wb") as file:
            file.write(COMPRESS[compression](data.getvalue()))
        modes.append((path, 0o644))


def add_member(archive, kind, name, *rest):
    member = tarfile.TarInfo(name)
    member.mtime = MTIME
    text = b""
    if kind == "file":
        text = rest[0].encode() if rest else b""
        member.size = len(text)
        member.mode = int(rest[1], 8) if rest[1:] else 0o644
        member.uid = member.gid = int(rest[2]) if rest[2:] else 0
    elif kind == "dir":
        member.type, member.mode = tarfile.DIRTYPE, int(rest[0], 8) if rest else 0o755
    else:
        member.type = {"link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE}[kind]
        member.linkname = rest[0]
    archive.addfile(member, io.BytesIO(text))


def parse(text):
    """The cases of a text."""
    cases = []
    for block in ("\n" + text).split("\n=== ")[1:]:
        head, _, dockerfile = block.partition("\n---\n")
        name, *lines = head.splitlines()
        case = Case(name.strip(), dockerfile=dockerfile.rstrip("\n") + "\n")
        for line in lines:
            verb, *words = shlex.split(line)
            if verb == "options":
                case.options += words
            elif verb == "differs":
                case.differs = " ".join(words)
            elif verb == "like":
                other = next(other for other in cases if other.name == words[0])
                case.setup += other.setup
                case.options += other.options
            else:
                case.setup.append([verb, *words])
        cases.append(case)
    return cases
