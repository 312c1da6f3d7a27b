//! The symbolic modes of chmod(1), `u=rwX,go-w`, as BuildKit's library reads them. It follows BSD's
//! chmod, but for some ideas of its own, which are kept here:
//!
//! - `X` asks for the mode as it was before the first clause.
//! - `=` takes the set-id bits away, of folders too, and the sticky bit only where `t` is named.
//! - `s` and `t` mean nothing for `o` alone; `t` without a class leaves other letters out.
//! - `u`, `g` and `o` may stand among other letters, one after another.

/// Whether a text is one clause of a symbolic mode, like `go-w` or `a+X`.
pub(in crate::builder) fn is_clause(clause: &str) -> bool {
    parse(clause).is_some()
}

/// The mode that a symbolic mode makes of another. Clauses are those that [`is_clause`] accepts.
pub(super) fn apply(symbolic: &str, mode: u32, is_dir: bool) -> u32 {
    let is_executable = is_dir || mode & EXECUTE != 0;
    let changes = symbolic.split(',').filter_map(parse).flatten();
    changes.fold(mode, |mode, change| change.apply(mode, is_executable))
}

/// The permission bits that a letter stands for, for all three classes.
const READ: u32 = 0o444;
const WRITE: u32 = 0o222;
const EXECUTE: u32 = 0o111;
const SET_ID: u32 = 0o6000;
const STICKY: u32 = 0o1000;
/// The bits of a class, and of all three.
const OTHERS: u32 = 0o0007;
const ALL: u32 = 0o6777;

/// A step on the way from one mode to another.
#[derive(Debug, Clone, Copy)]
enum Change {
    Set(u32),
    Clear(u32),
    /// Sets bits of what was executable.
    SetExecutable(u32),
    /// Does to the bits `to` what the operator says, with those of the class that is shifted so far.
    Copy {
        operator: char,
        shift: u32,
        to: u32,
    },
}

impl Change {
    fn apply(self, mode: u32, is_executable: bool) -> u32 {
        match self {
            Self::Set(bits) => mode | bits,
            Self::Clear(bits) => mode & !bits,
            Self::SetExecutable(bits) if is_executable => mode | bits,
            Self::SetExecutable(_) => mode,
            Self::Copy { operator, shift, to } => {
                let bits = ((mode >> shift & 7) * 0o111) & to;
                match operator {
                    '+' => mode | bits,
                    '-' => mode & !bits,
                    _ => mode & !to | bits,
                }
            }
        }
    }
}

fn parse(clause: &str) -> Option<Vec<Change>> {
    let who_ends = clause.find(['+', '-', '='])?;
    let (who, mut rest) = clause.split_at(who_ends);
    let mut classes = 0;
    for class in who.chars() {
        classes |= match class {
            'u' => 0o4700,
            'g' => 0o2070,
            'o' => OTHERS,
            'a' => ALL,
            _ => return None,
        };
    }
    let mut changes = Vec::new();
    while let Some(operator) = rest.chars().next() {
        let letters = &rest[1..];
        let end = letters.find(['+', '-', '=']).unwrap_or(letters.len());
        let (letters, after) = letters.split_at(end);
        Action { operator, classes, changes: &mut changes }.read(letters)?;
        rest = after;
    }
    Some(changes)
}

/// An operator that is being read, with the classes it is about.
struct Action<'a> {
    operator: char,
    classes: u32,
    changes: &'a mut Vec<Change>,
}

impl Action<'_> {
    fn read(&mut self, letters: &str) -> Option<()> {
        let only_others = self.classes == OTHERS;
        let copied = (self.classes | if self.classes == 0 { ALL } else { 0 }) & 0o777;
        let (mut bits, mut executable, mut is_set) = (0, 0, false);
        for letter in letters.chars() {
            match letter {
                'r' => bits |= READ,
                'w' => bits |= WRITE,
                'x' => bits |= EXECUTE,
                'X' if self.operator == '-' => bits |= EXECUTE,
                'X' => executable = EXECUTE,
                's' | 't' if only_others => {}
                's' => bits |= SET_ID,
                't' => {
                    self.classes |= STICKY;
                    bits |= STICKY;
                }
                'u' | 'g' | 'o' => {
                    self.add(std::mem::take(&mut bits), std::mem::take(&mut executable));
                    let shift = match letter {
                        'u' => 6,
                        'g' => 3,
                        _ => 0,
                    };
                    let (operator, to) = (self.operator, copied);
                    self.changes.push(Change::Copy { operator, shift, to });
                    is_set = true;
                }
                _ => return None,
            }
        }
        if self.operator == '=' && bits == 0 && !is_set {
            self.changes.push(Change::Clear(self.reach()));
        }
        self.add(bits, executable);
        Some(())
    }

    fn reach(&self) -> u32 {
        if self.classes == 0 { ALL } else { self.classes }
    }

    /// Adds what the letters since the last copy ask for.
    fn add(&mut self, bits: u32, executable: u32) {
        let reach = self.reach();
        let changes = match self.operator {
            _ if bits == 0 => vec![],
            '-' => vec![Change::Clear(bits & reach)],
            '+' => vec![Change::Set(bits & reach)],
            _ => vec![Change::Clear(reach), Change::Set(bits & reach)],
        };
        self.changes.extend(changes);
        if executable != 0 {
            self.changes.push(Change::SetExecutable(executable & reach));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_chmod_does_it() {
        let check = |symbolic: &str, mode: u32, is_dir: bool, expected: u32| {
            assert_eq!(apply(symbolic, mode, is_dir), expected, "{symbolic} on {mode:o}");
        };
        check("u=rwX,go=rX", 0o600, false, 0o644);
        check("u=rwX,go=rX", 0o700, false, 0o755);
        check("u=rwX,go=rX", 0o600, true, 0o755);
        check("a+x", 0o644, false, 0o755);
        check("+x", 0o644, false, 0o755);
        check("g+w,o-r", 0o644, false, 0o660);
        check("g=u", 0o640, false, 0o660);
        check("u+s,+t", 0o755, false, 0o5755);
        check("go=", 0o755, false, 0o700);
        check("u=r-w+x", 0o644, false, 0o544);
        check("g=rx", 0o2755, true, 0o0755);
        check("=rw", 0o1777, true, 0o1666);
        check("=t", 0o2755, false, 0o3755);
        check("+xt", 0o644, false, 0o1644);
        check("o+t,o=s", 0o644, false, 0o640);
        check("u+x,g+X", 0o644, false, 0o744);
        check("a-rwx,u+X", 0o755, false, 0o100);
        check("a-X", 0o755, false, 0o644);
        check("g=ur", 0o750, false, 0o740);
        check("g=ru", 0o640, false, 0o660);
        check("u=go", 0o644, false, 0o444);
    }

    #[test]
    fn refuses_what_is_no_mode() {
        for text in ["", "x", "u", "q+x", "u+q", "755", "u+rw u", "+755"] {
            assert!(!is_clause(text), "{text}");
        }
        for text in ["u=", "a+rwXst", "=", "ug-x+r", "g=ru"] {
            assert!(is_clause(text), "{text}");
        }
    }
}
