"""Makes a case of a seed: a context of files, links and archives with odd names, and a Dockerfile over all of it.

Most instructions are sound, some are not; whether a build goes well is for the builders to agree on.
"""

import random
import shlex

NAMES = ["a", "b.txt", "c d", "ünï", ".hid", "-dash", "run.sh", "[x]", "st*r", "deep", "lib", "x.tar.md"]
FOLDERS = ["d", "d/e", "d/e/f", "src", "src/ü", "e m", ".dir"]
TARGETS = ["a", "d", "d/e", "../a", "/a", "nowhere", "b.txt", "d/e/f", "../../..", "link2"]
MODES = ["644", "600", "755", "4755", "2711", "000", "444"]
FOLDER_MODES = ["755", "700", "1777", "2775", "711"]
CHMODS = ["644", "0755", "7", "4755", "1777", "u=rwX,go=rX", "a+x", "go-rwx", "g=u", "u+s,+t", "a=rX", "-w"]
CHOWNS = ["1", "1:2", "user", "user:staff", ":5", "0:staff", "other:0", "root", "65534:65534"]
COMPRESSIONS = ["none", "gzip", "bzip2", "xz", "zstd"]
DESTINATIONS = ["/", "/o/", "/o/", "/o/p/q/", ".", "./", "sub/", "/tree", "/tree/", "/tree/sub/", "/tree/link/", "/tree/new/x/",
                "/tree/sub/deep/", "/o p/", "/tree/shut/", "/o/$UNSET/y/", "/tree/link/z/", "/w/$BASE/"]
# What goes wrong for folders, or for everything.
HARD_DESTINATIONS = ["/o", "/o/p/q", "..", "sub", "/tree/sub", "/tree/link", "/tree/to-a", "/tree/dangling", "/w", "$BASE/x",
                     "/o/$UNSET/y", "/tree/link/z"]
HARD_METADATA = ["EXPOSE $A", "STOPSIGNAL NONSENSE", "ENV =x", "EXPOSE 99999999", "WORKDIR /tree/a", "USER nobody-here", "CMD",
                 "HEALTHCHECK --interval=1 CMD x", "LABEL x", "SHELL /bin/sh", "UNKNOWN x", "COPY --chmod=888 . /", "COPY --chmod=u . /",
                 "ADD --chown=nobody:nothing . /", "COPY --from=unknown-stage a b", "ENV A=${UNSET:?is missing}"]
PATTERNS = ["*", "**", "*.txt", "**/*.txt", "d", "d/e", "d/**", "d/*", "**/e", "?", "[a-c]*", ".*", "src/", "/a", "*/e/*", "lib"]
STAGE_SOURCES = ["/tree", "/tree/", "/bin/sh", "/etc", "/etc/group", "/etc/*",  "/tree/sub", "/tree/a", "/tree/to-a", "/tree/link", "/tree/link/b", "/tree/*", "/tree/s*",
                 "tree/sub/../a", "/tree/sub/h*", "/o", "/etc/passwd", "/tree/[ab]", "/home", "/tree/shut"]
COMMANDS = [
    "echo {n} > /tree/a", "rm -rf /tree/sub", "rm -rf /tree/sub && ln -s shut /tree/sub", "rm -rf /tree/sub && mkdir /tree/sub && echo n > /tree/sub/n",
    "chmod 711 /tree/shut", "chown 3:4 /tree/a", "chown -h 3:4 /tree/link", "mv /tree/sub /tree/moved", "ln /tree/a /tree/again-{n}",
    "mkdir -p /new/{n}/x && chmod 1777 /new/{n}", "rm -f /tree/link && mkdir /tree/link", "touch -d @1500000000 /tree/a", "echo $BASE $A $B > /env-{n}",
    "rm -f /tree/a /tree/dangling", "mkfifo /pipe-{n}", "echo a >> /tree/sub/b; rm /tree/sub/hard", "pwd > /pwd-{n}; id -u >> /pwd-{n}", "true", "cp -a /tree /copy-{n}",
    "rm -rf /tree/* && mkdir -p /tree/sub/deep", "ln -sf /etc/passwd /tree/a", "rm -r /tree/sub/deep && echo f > /tree/sub/deep", "find / -xdev -newer /bin/busybox -name 'zz*'",
    "printf '%s\\n' \"$HOME\" \"$USER\" > /home-{n}", "mkdir /o && echo o > /o/file", "chmod -R go-rwx /tree",
]


class Generator:
    """One case in the making."""

    def __init__(self, seed):
        self.seed, self.random = seed, random.Random(seed)
        self.setup, self.paths, self.archives = [], [], []
        self.stages, self.usable, self.number = [], [], 0

    def pick(self, *choices):
        return self.random.choice(choices[0] if len(choices) == 1 else choices)

    def chance(self, percent):
        return self.random.randrange(100) < percent

    def some(self, choices, most):
        return [self.pick(choices) for _ in range(self.random.randint(1, most))]

    def destination(self):
        return self.pick(HARD_DESTINATIONS if self.chance(15) else DESTINATIONS)

    def context(self):
        for folder in self.random.sample(FOLDERS, self.random.randint(1, len(FOLDERS))):
            self.add("dir", folder, self.pick(FOLDER_MODES))
        for _ in range(self.random.randint(3, 14)):
            self.add("file", self.new_path(), self.pick("one", "two", "", "long\\n" * 3), self.pick(MODES))
        for _ in range(self.random.randint(0, 4)):
            self.add("link", self.new_path("link"), self.pick(TARGETS))
        files = [words[1] for words in self.setup if words[0] == "file"]
        for _ in range(self.random.randint(0, 2)):
            self.add("hard", self.new_path("hard"), self.pick(files))
        if self.chance(10):
            self.add("fifo", self.new_path("fifo"))
        for _ in range(self.random.randint(0, 2)):
            path = self.new_path("arch") + self.pick(".tar", ".tgz", "", ".txt")
            self.add("archive", path, self.pick(COMPRESSIONS), *self.members())
            self.archives.append(path)
        if self.chance(25):
            self.setup.append(["ignore", *(self.pick("", "", "!") + pattern for pattern in self.some(PATTERNS, 5))])

    def add(self, verb, path, *words):
        if path not in self.paths:
            self.paths.append(path)
            self.setup.append([verb, path, *words])

    def new_path(self, prefix=""):
        folders = [words[1] + "/" for words in self.setup if words[0] == "dir"]
        name = prefix + str(len(self.paths)) if prefix else self.pick(NAMES)
        return self.pick(["", "", *folders]) + name

    def members(self):
        names = ["a", "sub/b", "sub", "link/in", "new/x", "./dot", "to-a", "shut", "shut/y", "sub/deep/z", "h"]
        members = []
        for name in self.some(names, 6):
            kind = self.pick("file", "file", "file", "dir", "link", "hard")
            members.append({
                "file": f"file:{name}:{self.pick('x', 'yy')}:{self.pick(MODES)}:{self.pick('0', '7')}",
                "dir": f"dir:{name}:{self.pick(FOLDER_MODES)}",
                "link": f"link:{name}:{self.pick('a', 'sub', '/tree/a', 'gone')}",
                "hard": f"hard:{name}:{self.pick('a', 'sub/b')}",
            }[kind])
        return members

    def dockerfile(self):
        lines = ["ARG A=global"] if self.chance(30) else []
        for index in range(self.pick(1, 1, 2, 2, 3)):
            bases = ["mica-diff/base"] * 6 + ["scratch", "mica-diff/triggers", "mica-diff/$IMAGE"] + self.stages * 2
            base = self.pick(bases)
            self.usable = [stage for stage in self.stages if not stage.startswith("e")]
            is_empty = base == "scratch" or base.startswith("e")
            if "$IMAGE" in base:
                lines[:0] = ["ARG IMAGE=base"]
            name = f"{'e' if is_empty else 's'}{index}" if self.chance(80) else ""
            lines.append(f"FROM {base}" + (f" AS {name}" if name else ""))
            for _ in range(self.random.randint(1, 7)):
                lines += self.instruction(is_empty)
            self.stages += [name] if name else []
        return "\n".join(lines)

    def instruction(self, is_empty):
        self.number += 1
        if self.chance(2):
            return [self.pick(HARD_METADATA)]
        weighted = [self.copy] * 8 + [self.add_files] * 3 + [self.run] * 5 + [self.metadata] * 6 + [self.copy_stage] * 3 + [self.heredoc]
        if is_empty:
            weighted = [self.copy] * 6 + [self.add_files] * 3 + [self.metadata] * 4 + [self.copy_stage] * 2 + [self.heredoc]
        lines = self.pick(weighted)()
        onbuild = self.chance(5) and not lines[0].startswith("MAINTAINER")
        return ["ONBUILD " + lines[0], *lines[1:]] if onbuild else lines

    def flags(self):
        flags = ""
        if self.chance(25):
            flags += f" --chown={self.pick(CHOWNS)}"
        if self.chance(25):
            flags += f" --chmod={self.pick(CHMODS)}"
        if self.chance(20):
            flags += "".join(f" --exclude={pattern}" for pattern in self.some(PATTERNS, 2) if "**" != pattern)
        return flags

    def sources(self):
        choices = self.easy() * 3 + [".", "./", "*", "*.txt", "[ab]*", "?", "none*", "a*", "/"]
        if self.chance(10):
            choices = self.paths + ["d", "d/", "d/*", "link*", "d/../a", "[x]"]
        return [self.pick("", "", "", "./", "/") + source if source not in (".", "/") else source
                for source in self.some(choices, self.pick(1, 1, 1, 3))]

    def easy(self):
        """Paths that are there and mean themselves, unless `.dockerignore` hides them."""
        return [words[1] for words in self.setup if words[0] in ("file", "dir", "hard") and not set(words[1]) & set("[*-")] or ["."]

    def line(self, name, flags, sources, destination):
        words = [*sources, destination]
        if any(" " in word or "[" in words[0][:1] for word in words):
            quoted = ", ".join('"' + word.replace("\\", "\\\\") + '"' for word in words)
            return [f"{name}{flags} [{quoted}]"]
        separator = " --" if words[0].startswith("-") else ""
        return [f"{name}{flags}{separator} {' '.join(words)}"]

    def copy(self):
        return self.line("COPY", self.flags(), self.sources(), self.destination())

    def add_files(self):
        sources = [self.pick(self.archives)] if self.archives and self.chance(70) else self.sources()
        flags = self.flags() + (" --unpack=false" if self.chance(10) else "")
        return self.line("ADD", flags, sources, self.destination())

    def copy_stage(self):
        places = self.usable * 2 + ["mica-diff/base", "mica-diff/triggers"] + (["0"] if self.chance(10) else [])
        return self.line("COPY", f" --from={self.pick(places)}" + self.flags(), self.some(STAGE_SOURCES, 2), self.destination())

    def run(self):
        command = self.pick(COMMANDS).replace("{n}", str(self.number)) + (" || true" if self.chance(90) else "")
        return [self.pick(f"RUN {command}", f"RUN {command}", f'RUN ["/bin/sh", "-c", {quote(command)}]')]

    def heredoc(self):
        end = self.pick("EOF", '"EOF"', "E_O")
        body = [f"text $A ${{BASE:-none}} {self.number}", "\ttabbed \\$A"]
        word = end.strip('"')
        if self.chance(50):
            return [f"COPY{self.flags().split(' --exclude')[0]} <<{end} {self.pick('/here', '/here/', 'here/x')}", *body, word]
        return [f"RUN <<-{end}", f"\techo heredoc {self.number} $A > /run-{self.number}", "\ttouch /done", word]

    def metadata(self):
        n = self.number
        return [self.pick(
            f"ENV A=env{n} B=\"b $A\"", f"ENV C one two {n}", "ENV PATH=$PATH:/extra", f"ARG A=arg{n}", "ARG A", f"ARG B=${{A:-x}}{n}",
            "WORKDIR /w", "WORKDIR sub/$A", "WORKDIR ..", "WORKDIR /tree/link/in", "WORKDIR /tree/dangling", "WORKDIR /",
            "USER user", "USER 1000:50", "USER root", "VOLUME /tree/sub /v2", 'VOLUME ["/v 3"]', f"EXPOSE {n}80 53/udp 70-72/tcp",
            f"LABEL l{n}=v \"m x\"='y $A'", f"LABEL a b c {n}", "HEALTHCHECK --interval=3s --retries=2 CMD echo ok", "HEALTHCHECK NONE",
            'HEALTHCHECK CMD ["a", "b"]', 'SHELL ["/bin/sh", "-ec"]', "CMD echo $A", 'CMD ["x", "y"]', "CMD []", "ENTRYPOINT exec $A", 'ENTRYPOINT ["/e"]',
            "ENTRYPOINT []", "STOPSIGNAL 9", "STOPSIGNAL SIGUSR1", "MAINTAINER some $A body",
        )]


def quote(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def case_text(seed):
    """The case of a seed, as `case.parse` reads it."""
    generator = Generator(seed)
    generator.context()
    dockerfile = generator.dockerfile()
    setup = "\n".join(shlex.join(words) for words in generator.setup)
    return f"=== seed-{seed}\n{setup}\n---\n{dockerfile}\n"
