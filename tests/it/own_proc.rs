//! What a step in a chroot finds in `/dev` and `/proc` of its own processes, where nothing is mounted.

use crate::env::{TestEnv, root_only};

fn output(env: &TestEnv, run: &str) -> String {
    let script = format!("FROM base\n{run}\n");
    let context = env.dockerfile(&script);
    let context = context.to_str().expect("text");
    let build = ["--isolation", "chroot", "build", "--no-cache", "-q", "-t", "found", context];
    env.mica(build).success();
    env.saved("found").text("tmp/found")
}

#[test]
fn a_process_finds_its_streams_and_itself() {
    let Some(env) = root_only() else { return };
    let script = r"RUN <<'END'
{
    echo one >/dev/stdout
    echo two | cat /dev/stdin
    echo three 2>&1 >/dev/stderr
    echo four | cp /dev/stdin /tmp/copy && cat /tmp/copy
    exec 7</tmp/copy && cat /dev/fd/7 /proc/self/fd/7
    test -e /dev/fd/7 && test ! -e /dev/fd/8 && test -r /proc/self/status && echo five
    for name in exe cwd root; do readlink /proc/self/$name; done
    cat /proc/self/comm
    grep -c . /proc/$$/status >/dev/null && echo parent
    stat -L -c %F /dev/fd/7
    echo x | diff - /dev/fd/7 | tail -n 1
} 2>&1 | cat >/tmp/found
END";
    let expected = "one\ntwo\nthree\nfour\nfour\nfour\nfive\n/bin/busybox\n/\n/\ncat\nparent\n\
                    regular file\n+four\n";
    assert_eq!(output(&env, script), expected);
    let as_user = script.replacen("RUN", "USER 1000:1000\nRUN", 1);
    assert_eq!(output(&env, &as_user), expected);
}

#[test]
fn nothing_of_proc_leads_out() {
    let Some(env) = root_only() else { return };
    let script = r"RUN <<'END'
for path in /proc/1/status /proc/1/root /proc/$PPID/environ /proc/$PPID/root /proc/$PPID/exe \
    /proc/self/fd /proc/self/task /proc/self/ns/mnt /proc/self/mem /proc/self/map_files \
    /proc/self/../1/root /proc/sysrq-trigger /proc/kcore; do
    test -e $path && echo there: $path
    ls $path >/dev/null 2>&1 && echo listed: $path
    head -c 1 $path 2>/dev/null | grep -q . && echo read: $path
done >/tmp/found
ls / >/tmp/own; ls /proc/self/root/ >/tmp/root 2>/dev/null; cd /proc/self/root/.. 2>/dev/null && ls
true
END";
    assert_eq!(output(&env, script), "");
}

#[test]
fn a_user_opens_no_more_than_it_may() {
    let Some(env) = root_only() else { return };
    let script = r"RUN echo secret >/tmp/closed && chmod 600 /tmp/closed && \
    { su user -s /bin/sh -c 'cat /dev/fd/7; echo more >/dev/fd/7' 7</tmp/closed || true; } 2>/dev/null; \
    cat /tmp/closed >/tmp/found";
    let script = format!("RUN echo user:x:1000:1000::/:/bin/sh >>/etc/passwd\n{script}");
    assert_eq!(output(&env, &script), "secret\n");
}
