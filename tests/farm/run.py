#!/usr/bin/env python3
"""Several machines build, share one cache, and are killed now and then.

Each machine is a network namespace with a store of its own; the registry is outside of them. All build the same
Dockerfiles in another order, export their caches at the same time, and start over with an empty store now and
then. One of them is killed at random moments. In the end, machines that have nothing must find every step.

    tests/farm/run.py --mica target/release/mica --registry /usr/bin/docker-registry --seconds 180

Needs root, `ip` and a static busybox. Exit status 0 if nothing went wrong.
"""

import argparse
import collections
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

PORT = 5999
HOST = "10.213.0.1"
NAME = f"{HOST}:{PORT}/farm"
CACHE = f"{NAME}/cache:main"


def sh(*words, check=True):
    return subprocess.run(words, check=check, capture_output=True, text=True)


def variants():
    """Dockerfiles that share their first steps. The odd ones come out differently each time that they run."""
    for number in range(8):
        odd = "head -c 64 /dev/urandom >/noise" if number % 2 else "echo quiet >/noise"
        lines = ["FROM scratch AS base", "COPY busybox /bin/busybox", 'SHELL ["/bin/busybox", "sh", "-c"]',
                 'ENV PATH=/bin', "RUN busybox --install -s /bin"]
        lines += [f"RUN echo {step} >/shared-{step}" for step in range(number // 2 + 2)]
        lines += ["FROM base AS side", f"RUN echo side {number % 3} >/side", "FROM base"]
        lines += [f"RUN {odd}", f"RUN head -c 100000 /dev/zero >/own-{number}", "COPY --from=side /side /from-side"]
        yield number, "\n".join(lines) + "\n"


class Machine:
    def __init__(self, farm, number):
        self.farm, self.number = farm, number
        self.root = os.path.join(farm.work, f"m{number}")
        self.random = random.Random(f"{farm.args.seed}/{number}")
        self.builds = self.kills = self.colds = 0
        self.space = f"farm{number}"

    def command(self, variant, *more):
        context = os.path.join(self.farm.work, f"context{variant}")
        return ["ip", "netns", "exec", self.space, self.farm.args.mica, "--root", self.root, "build", "-q",
                "--cache-from", CACHE, "--source-date-epoch", "1700000000", *more, context]

    def build(self, variant, *more, patience=None):
        process = subprocess.Popen(self.command(variant, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   env=self.farm.environment, start_new_session=True)
        try:
            out, err = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            self.kills += 1
            return None
        self.builds += 1
        if process.returncode or "cannot" in err:
            self.farm.wrong(f"machine {self.number}, variant {variant}: status {process.returncode}: {err.strip()}")
        return out.strip()

    def work(self, until):
        numbers = list(range(8))
        while time.time() < until:
            self.random.shuffle(numbers)
            for variant in numbers:
                if time.time() > until:
                    return
                is_victim = self.number == 3
                patience = self.random.uniform(0.02, 0.6) if is_victim and self.random.random() < 0.5 else None
                app = f"{NAME}/app{self.number}:v{variant}"
                image = self.build(variant, "--cache-to", f"type=registry,ref={CACHE},mode=max", "--push", "-t", app,
                                   patience=patience)
                if image:
                    self.farm.saw(variant, image)
            if self.random.random() < 0.5:
                shutil.rmtree(self.root, ignore_errors=True)
                self.colds += 1


class Farm:
    def __init__(self, args):
        self.args = args
        self.work = tempfile.mkdtemp(prefix="mica-farm-")
        self.problems = []
        self.images = collections.defaultdict(set)
        self.lock = threading.Lock()
        self.environment = {**os.environ, "XDG_CONFIG_HOME": self.work}
        os.makedirs(f"{self.work}/mica")
        with open(f"{self.work}/mica/config.toml", "w") as file:
            file.write(f'[registry."{HOST}:{PORT}"]\nhttp = true\n')
        for number, text in variants():
            context = f"{self.work}/context{number}"
            os.makedirs(context)
            shutil.copy(args.busybox, f"{context}/busybox")
            os.utime(f"{context}/busybox", (1700000000, 1700000000))
            with open(f"{context}/Dockerfile", "w") as file:
                file.write(text)

    def wrong(self, what):
        with self.lock:
            self.problems.append(what)
            print("wrong:", what, file=sys.stderr)

    def saw(self, variant, image):
        with self.lock:
            self.images[variant].add(image)
        if variant % 2 == 0 and len(self.images[variant]) > 1:
            self.wrong(f"variant {variant} has several images: {self.images[variant]}")

    def __enter__(self):
        sh("ip", "link", "add", "farm0", "type", "bridge")
        sh("ip", "addr", "add", f"{HOST}/24", "dev", "farm0")
        sh("ip", "link", "set", "farm0", "up")
        for number in range(4):
            space, outer, inner = f"farm{number}", f"farmo{number}", f"farmi{number}"
            sh("ip", "netns", "add", space)
            sh("ip", "link", "add", outer, "type", "veth", "peer", "name", inner)
            sh("ip", "link", "set", outer, "master", "farm0", "up")
            sh("ip", "link", "set", inner, "netns", space)
            sh("ip", "-n", space, "addr", "add", f"10.213.0.{number + 10}/24", "dev", inner)
            sh("ip", "-n", space, "link", "set", inner, "up")
            sh("ip", "-n", space, "link", "set", "lo", "up")
        delete = "true" if self.args.delete else "false"
        with open(f"{self.work}/registry.yml", "w") as file:
            file.write(f"version: 0.1\nstorage:\n  filesystem: {{rootdirectory: {self.work}/registry}}\n"
                       f"  delete: {{enabled: {delete}}}\nhttp: {{addr: '{HOST}:{PORT}'}}\n"
                       "log: {level: error, accesslog: {disabled: true}}\n")
        self.registry = subprocess.Popen([*self.args.registry.split(), "serve", f"{self.work}/registry.yml"],
                                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(2)
        return self

    def __exit__(self, *_):
        self.registry.kill()
        self.registry.wait()
        for number in range(4):
            sh("ip", "netns", "del", f"farm{number}", check=False)
            sh("ip", "link", "del", f"farmo{number}", check=False)
        sh("ip", "link", "del", "farm0", check=False)
        shutil.rmtree(self.work, ignore_errors=True)

    def check(self):
        """Machines that have nothing find all steps, and the same images."""
        for variant in range(8):
            found = set()
            for number in range(2):
                machine = Machine(self, number)
                machine.root = f"{self.work}/fresh{number}"
                shutil.rmtree(machine.root, ignore_errors=True)
                command = [word for word in machine.command(variant) if word != "-q"]
                ran = subprocess.run(command, capture_output=True, text=True, env=self.environment)
                found |= {line.split()[1] for line in ran.stderr.splitlines() if line.startswith("built ")}
                if ran.returncode or " DONE " in ran.stderr:
                    self.wrong(f"variant {variant} is not all in the cache: {ran.stderr}")
            if len(found) != 1:
                self.wrong(f"variant {variant} is {found}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mica", required=True)
    parser.add_argument("--registry", required=True, help="the distribution registry's program, with what stands before it")
    parser.add_argument("--busybox", default="/bin/busybox")
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--delete", action="store_true", help="let the registry delete tags")
    args = parser.parse_args()
    args.mica = os.path.abspath(args.mica)
    with Farm(args) as farm:
        machines = [Machine(farm, number) for number in range(4)]
        until = time.time() + args.seconds
        threads = [threading.Thread(target=machine.work, args=[until]) for machine in machines]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        farm.check()
        for machine in machines:
            print(f"machine {machine.number}: {machine.builds} builds, {machine.kills} kills, {machine.colds} times emptied")
        print(f"{len(farm.problems)} problems")
    return bool(farm.problems)


if __name__ == "__main__":
    sys.exit(main())
