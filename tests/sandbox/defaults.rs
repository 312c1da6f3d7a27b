//! What every process gets: identity, privileges, file systems, environment.

use std::net::IpAddr;

use mica::runtime::isolation::Mode;
use mica::runtime::{ExitStatus, Network, Resource, SandboxError, SetupError, Stdin, Ulimit};

use crate::Test;
use crate::env::Env;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("capabilities are Docker's", capabilities),
    ("another user has none effective", other_user),
    ("no_new_privs is off, the filter is on", filter),
    ("forbidden calls fail", forbidden_calls),
    ("namespaces are the process's own", namespaces),
    ("proc is masked and read-only in parts", proc),
    ("sys is read-only", sys),
    ("dev has the listed nodes", dev),
    ("made devices stay closed", made_devices),
    ("hosts and resolv.conf are written", etc),
    ("host name", hostname),
    ("limits", limits),
    ("descriptors are three", descriptors),
    ("environment is the given one and HOME", environment),
    ("umask and working directory", umask),
    ("users are looked up in the image", users),
    ("commands that can't run", commands),
    ("network none has only lo", network_none),
    ("PID 1 is the command", first_process),
];

fn status(env: &Env, user: &str) -> String {
    let mut step = env.step("cat /proc/self/status");
    user.clone_into(&mut step.spec.user);
    env.expect(&step)
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|it| it.strip_prefix(':')).map(str::trim).expect(name)
}

fn capabilities(env: &Env) {
    let status = status(env, "");
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(field(&status, set), "00000000a80425fb", "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(field(&status, set), "0000000000000000", "{set}");
    }
}

fn other_user(env: &Env) {
    let status = status(env, "app");
    assert_eq!(field(&status, "CapBnd"), "00000000a80425fb");
    assert_eq!(field(&status, "CapEff"), "0000000000000000");
    assert_eq!(field(&status, "CapPrm"), "0000000000000000");
    assert_eq!(field(&status, "Uid"), "1000\t1000\t1000\t1000");
    assert_eq!(field(&status, "Gid"), "1001\t1001\t1001\t1001");
    assert_eq!(field(&status, "Groups"), "55 1001");
}

fn filter(env: &Env) {
    let status = status(env, "");
    assert_eq!(field(&status, "NoNewPrivs"), "0");
    assert_eq!(field(&status, "Seccomp"), "2");
}

fn forbidden_calls(env: &Env) {
    let out = env.shell(
        "busybox unshare -m true 2>&1; busybox mount -t tmpfs none /tmp 2>&1; \
         busybox umount /proc 2>&1; busybox chroot / true && echo chroot; busybox dmesg 2>&1; true",
    );
    let refused = |line: &&str| line.contains("not permitted") || line.contains("denied");
    assert_eq!(out.lines().filter(refused).count(), 4, "{out}");
    assert!(out.contains("chroot"), "{out}");
}

fn namespaces(env: &Env) {
    let inside = env.shell("cd /proc/self/ns; for n in *; do echo $n $(readlink $n); done");
    for name in ["mnt", "pid", "ipc", "uts", "cgroup"] {
        let link = std::fs::read_link(format!("/proc/self/ns/{name}")).expect("a namespace");
        let line = format!("{name} {}\n", link.display());
        assert!(!inside.contains(&line), "{name} is shared");
        assert!(inside.contains(&format!("{name} {name}:[")), "{inside}");
    }
    let net = std::fs::read_link("/proc/self/ns/net").expect("a namespace");
    assert!(inside.contains(&format!("net {}", net.display())), "the network is the host's");
}

fn proc(env: &Env) {
    let out = env.shell(
        "for f in kcore keys timer_list sched_debug latency_stats timer_stats interrupts; do \
         test -e /proc/$f && wc -c < /proc/$f; done; \
         for d in acpi scsi asound; do ls -A /proc/$d 2>/dev/null; done; true",
    );
    assert!(out.lines().all(|line| line == "0"), "{out}");
    let out = env.shell(
        "for f in sys/kernel/domainname sysrq-trigger irq/default_smp_affinity; do \
         echo x 2>&1 > /proc/$f; done 2>&1; true",
    );
    // A kernel may lack one or the other.
    let lines: Vec<&str> = out.lines().filter(|it| !it.contains("nonexistent")).collect();
    assert!(!lines.is_empty());
    assert!(lines.iter().all(|it| it.contains("Read-only file system")), "{out}");
}

fn sys(env: &Env) {
    let out = env.shell(
        "echo x 2>&1 > /sys/kernel/uevent_helper; ls -A /sys/firmware /sys/fs/cgroup \
         /sys/devices/virtual/powercap 2>&1; grep ' /sys ' /proc/mounts",
    );
    assert!(out.contains("sysfs /sys sysfs ro,nosuid,nodev,noexec"), "{out}");
    assert!(!out.contains("dmi"), "{out}");
    assert_eq!(out.matches(" /sys ").count(), 1, "{out}");
    let all = env.shell("cat /proc/self/mountinfo");
    for outer in ["/var", "/mnt", "/boot"] {
        assert!(!all.contains(&format!(" {outer} ")), "a mount of the host is left:\n{all}");
    }
}

fn dev(env: &Env) {
    let out = env.shell("ls /dev");
    let expected = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
    assert_eq!(out.split_whitespace().collect::<Vec<_>>().join(" "), expected);
    let out = env.shell(
        "for n in null zero full random urandom; do stat -c '%n %t:%T %F %a' /dev/$n; done; \
         for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done; \
         echo x > /dev/null; busybox head -c 3 /dev/zero | wc -c; \
         busybox head -c 3 /dev/urandom | wc -c; echo hi > /dev/shm/x; cat /dev/shm/x; \
         echo err > /dev/stderr; grep ' /dev' /proc/mounts",
    );
    for part in [
        "/dev/null 1:3 character special file 666",
        "/dev/urandom 1:9 character special file 666",
        "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n3\n3\nhi\n",
        "tmpfs /dev tmpfs rw,nosuid,nodev",
        "size=65536k,mode=755",
        "devpts /dev/pts devpts rw,nosuid,noexec",
        "mode=620,ptmxmode=666",
        "tmpfs /dev/shm tmpfs rw,nosuid,nodev,noexec",
        "mqueue /dev/mqueue mqueue rw,nosuid,nodev,noexec",
    ] {
        assert!(out.contains(part), "{part} is not in:\n{out}");
    }
}

fn made_devices(env: &Env) {
    let out = env.shell(
        "mknod /tmp/sda b 8 0 && cat /tmp/sda; mknod /dev/kmsg c 1 11 && cat /dev/kmsg; echo done",
    );
    assert_eq!(out, "done\n");
}

fn etc(env: &Env) {
    let mut step =
        env.step("cat /etc/hosts; echo x >> /etc/hosts || echo refused; grep /etc/ /proc/mounts");
    step.spec.hosts.push(("db".to_owned(), IpAddr::from([10, 1, 2, 3])));
    let out = env.expect(&step);
    let hosts = "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost \
                 ip6-loopback\n10.1.2.3\tdb\nrefused\n";
    assert!(out.starts_with(hosts), "{out}");
    for path in ["/etc/hosts", "/etc/resolv.conf"] {
        assert!(out.contains(&format!("{path} tmpfs ro,nosuid,nodev,noexec")), "{out}");
    }
    let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    assert_eq!(env.shell("cat /etc/resolv.conf"), host);
}

fn hostname(env: &Env) {
    assert_eq!(env.shell("busybox hostname"), "buildkitsandbox\n");
}

fn limits(env: &Env) {
    let mut step = env.step("ulimit -n; ulimit -Hn; ulimit -c; ulimit -l");
    let limit = |resource, soft, hard| Ulimit { resource, soft: Some(soft), hard };
    step.spec.ulimits = vec![
        limit(Resource::Nofile, 100, Some(200)),
        limit(Resource::Core, 0, Some(0)),
        limit(Resource::Memlock, 1 << 40, None),
    ];
    let out = env.expect(&step);
    assert!(out.starts_with("100\n200\n0\n"), "{out}");
    let soft: u64 = env.shell("ulimit -n").trim().parse().expect("a number");
    assert!(soft <= 1 << 20);
}

fn descriptors(env: &Env) {
    // Left open on purpose, as a careless shell would.
    let leak = std::fs::File::open("/").expect("the root");
    let flags = rustix::io::FdFlags::empty();
    rustix::io::fcntl_setfd(&leak, flags).expect("to leak");
    let out =
        env.shell("ls /proc/self/fd; readlink /proc/self/fd/0; busybox wc -c < /proc/self/fd/0");
    let lines: Vec<&str> = out.lines().collect();
    // ls has a fourth one of its own, for the directory.
    assert_eq!(lines, ["0", "1", "2", "3", "/dev/null", "0"], "{out}");
}

fn environment(env: &Env) {
    let mut step = env.step("");
    step.spec.argv = vec!["env".into()];
    step.spec.env.push(("A".into(), "b=c\nd".into()));
    assert_eq!(env.expect(&step), "PATH=/bin\nA=b=c\nd\nHOME=/root\n");
    step = env.step("");
    step.spec.argv = vec!["env".into()];
    step.spec.user = "app".into();
    step.spec.env.push(("HOME".into(), "/set".into()));
    assert_eq!(env.expect(&step), "PATH=/bin\nHOME=/set\n");
}

fn umask(env: &Env) {
    let mut step = env.step("umask; pwd");
    step.spec.cwd = "/home".into();
    assert_eq!(env.expect(&step), "0022\n/home\n");
    for cwd in ["/etc/passwd", "/proc/missing", "/proc/self/fd/3", "/proc/self/cwd"] {
        step = env.step("pwd");
        step.spec.cwd = cwd.into();
        let error = env.run(&step.spec).expect_err(cwd);
        let SandboxError::Setup(SetupError::WorkingDirectory { .. }) = error else {
            panic!("{error:?}")
        };
    }
}

fn users(env: &Env) {
    for (user, expected) in [
        ("", "0 0 0"),
        ("app", "1000 1001 1001 55"),
        ("app:root", "1000 0 0"),
        ("77:88", "77 88 88"),
        ("1000", "1000 1001 1001 55"),
    ] {
        let mut step = env.step("echo $(id -u) $(id -g) $(id -G)");
        user.clone_into(&mut step.spec.user);
        assert_eq!(env.expect(&step).trim(), expected, "{user}");
    }
    let mut step = env.step("");
    step.spec.user = "ghost".into();
    let error = env.run(&step.spec).expect_err("no such user").to_string();
    assert_eq!(error, "unable to find user ghost: no matching entries in passwd file");
}

fn commands(env: &Env) {
    let attempt = |command: &str| {
        let mut step = env.step("");
        step.spec.argv = vec![command.into()];
        let error = env.run(&step.spec).expect_err(command);
        (error.exit_code(), error.to_string())
    };
    let (code, text) = attempt("nonesuch");
    assert_eq!(
        (code, text.as_str()),
        (127, "exec: \"nonesuch\": executable file not found in $PATH")
    );
    let (code, text) = attempt("/nonesuch");
    assert_eq!((code, text.as_str()), (127, "exec: \"/nonesuch\": no such file or directory"));
    let (code, text) = attempt("/etc/passwd");
    assert_eq!((code, text.as_str()), (126, "exec: \"/etc/passwd\": permission denied"));
    let ran = env.run(&env.step("echo out; echo err >&2; exit 42").spec).expect("to run");
    assert_eq!((ran.status, &*ran.stdout, &*ran.stderr), (ExitStatus::Code(42), "out\n", "err\n"));
    let ran = env.run(&env.step("busybox sh -c 'kill -9 $$'; echo $?").spec).expect("to run");
    assert_eq!(ran.stdout.trim(), "137");
}

fn network_none(env: &Env) {
    let mut step =
        env.step("ls /sys/class/net; busybox ip -o addr; busybox ping -c1 -W1 127.0.0.1");
    step.spec.network = Network::None;
    let out = env.expect(&step);
    assert!(out.starts_with("lo\n"), "{out}");
    assert!(out.contains("127.0.0.1/8"), "{out}");
    assert!(!out.contains("eth"), "{out}");
}

fn first_process(env: &Env) {
    let mut step = env.step("echo $$; busybox ps -o pid,comm | wc -l; cat");
    step.spec.stdin = Stdin::Null;
    let out = env.expect(&step);
    assert!(out.starts_with("1\n"), "{out}");
    if let Mode::Root = env.mode {
        // A header, the shell, ps and wc.
        assert_eq!(out, "1\n4\n");
    }
}
