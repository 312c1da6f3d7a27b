//! HEALTHCHECK.

use std::time::Duration;

use super::ast::{Command, HealthTest, Healthcheck};
use super::diagnostic::{Diagnostic, quote};
use super::duration;
use super::flags::{Flags, Kind};
use super::instruction::command;
use super::node::{Arguments, Context, Node};

/// The shortest time that can be set: what Docker's engine accepts.
const MIN_NANOSECONDS: i64 = 1_000_000;

/// Gives a HEALTHCHECK its meaning.
pub(crate) fn healthcheck(
    context: Context<'_>,
    node: &Node<'_>,
) -> Result<Healthcheck, Diagnostic> {
    let error = |code, part: &str, message: &str| context.error(code, part, message);
    let (kind, arguments) = match &node.arguments {
        Arguments::Health(kind, arguments) if !kind.is_empty() => (*kind, arguments),
        _ => {
            let message = "HEALTHCHECK requires at least one argument";
            return Err(error("missing-argument", node.name, message));
        }
    };
    let is_empty = match arguments.as_ref() {
        Arguments::Exec(elements) => elements.is_empty(),
        Arguments::Text(text) => text.is_empty(),
        _ => true,
    };
    if kind.eq_ignore_ascii_case("none") {
        if !is_empty {
            let message = "HEALTHCHECK NONE takes no arguments";
            return Err(error("healthcheck-none", node.rest, message));
        }
        return Ok(Healthcheck::None);
    }
    let flags = Flags::check(
        context.line,
        &node.flags,
        &[
            ("interval", Kind::Text),
            ("timeout", Kind::Text),
            ("start-period", Kind::Text),
            ("start-interval", Kind::Text),
            ("retries", Kind::Text),
        ],
    )?;
    if !kind.eq_ignore_ascii_case("cmd") {
        let message = format!("unknown type {} in HEALTHCHECK", quote(kind));
        return Err(error("healthcheck-type", kind, &message).with_hint("try `CMD`"));
    }
    if is_empty {
        return Err(error("missing-argument", kind, "missing command after HEALTHCHECK CMD"));
    }
    Ok(Healthcheck::Check(test(&flags, command(context, arguments, Vec::new()))?))
}

fn test(flags: &Flags, command: Command) -> Result<HealthTest, Diagnostic> {
    Ok(HealthTest {
        interval: time(flags, "interval")?,
        timeout: time(flags, "timeout")?,
        start_period: time(flags, "start-period")?,
        start_interval: time(flags, "start-interval")?,
        retries: retries(flags)?,
        command,
    })
}

/// The value of the flag `name`, nothing where it is absent, empty or zero.
fn time(flags: &Flags, name: &str) -> Result<Option<Duration>, Diagnostic> {
    let Some(word) = flags.text(name).filter(|word| !word.text.is_empty()) else {
        return Ok(None);
    };
    let invalid = |message: String| Diagnostic::error("invalid-flag-value", word.span, message);
    let shown = quote(&word.text);
    let Some(nanoseconds) = duration::nanoseconds(&word.text) else {
        return Err(invalid(format!("invalid duration {shown} for --{name}"))
            .with_hint("write it as in `1m30s` or `500ms`"));
    };
    if nanoseconds != 0 && nanoseconds < MIN_NANOSECONDS {
        return Err(invalid(format!("{name} {shown} cannot be less than 1ms")));
    }
    Ok(duration::positive(nanoseconds))
}

fn retries(flags: &Flags) -> Result<Option<u32>, Diagnostic> {
    let Some(word) = flags.text("retries").filter(|word| !word.text.is_empty()) else {
        return Ok(None);
    };
    match word.text.parse::<i32>().map(u32::try_from) {
        Ok(Ok(retries)) => Ok(Some(retries).filter(|retries| *retries > 0)),
        Ok(Err(_)) => {
            let message = format!("--retries cannot be negative ({})", quote(&word.text));
            Err(Diagnostic::error("invalid-flag-value", word.span, message))
        }
        Err(_) => {
            let message = format!("invalid number {} for --retries", quote(&word.text));
            Err(Diagnostic::error("invalid-flag-value", word.span, message))
        }
    }
}
