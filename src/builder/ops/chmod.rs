//! The symbolic modes of chmod(1): `u=rwX,go-w`.

/// Whether a text is one clause of a symbolic mode, like `go-w` or `a+X`.
pub(in crate::builder) fn is_clause(clause: &str) -> bool {
    parse(clause).is_some()
}

/// The mode that a symbolic mode makes of another. Clauses are those that [`is_clause`] accepts.
pub(super) fn apply(symbolic: &str, mode: u32, is_dir: bool) -> u32 {
    symbolic.split(',').filter_map(parse).fold(mode, |mode, clause| clause.apply(mode, is_dir))
}

/// The permission bits that a letter stands for, for all three classes.
const READ: u32 = 0o444;
const WRITE: u32 = 0o222;
const EXECUTE: u32 = 0o111;
const SET_ID: u32 = 0o6000;
const STICKY: u32 = 0o1000;

struct Clause<'a> {
    /// The bits of the classes that it is about.
    classes: u32,
    /// Each an operator and its permissions.
    actions: Vec<(char, &'a str)>,
}

fn parse(clause: &str) -> Option<Clause<'_>> {
    let who_ends = clause.find(['+', '-', '='])?;
    let (who, mut rest) = clause.split_at(who_ends);
    let mut classes = 0;
    for class in who.chars() {
        classes |= match class {
            'u' => 0o4700,
            'g' => 0o2070,
            'o' => 0o1007,
            'a' => 0o7777,
            _ => return None,
        };
    }
    let classes = if who.is_empty() { 0o7777 } else { classes };
    let mut actions = Vec::new();
    while let Some(operator) = rest.chars().next() {
        let permissions = &rest[1..];
        let end = permissions.find(['+', '-', '=']).unwrap_or(permissions.len());
        let (permissions, after) = permissions.split_at(end);
        let copies = matches!(permissions, "u" | "g" | "o");
        if !copies && !permissions.chars().all(|p| "rwxXst".contains(p)) {
            return None;
        }
        actions.push((operator, permissions));
        rest = after;
    }
    Some(Clause { classes, actions })
}

impl Clause<'_> {
    fn apply(&self, mut mode: u32, is_dir: bool) -> u32 {
        for (operator, permissions) in &self.actions {
            let bits = self.bits(permissions, mode, is_dir);
            mode = match operator {
                '+' => mode | bits,
                '-' => mode & !bits,
                // Setting permissions leaves the set-id bits of a folder alone, as chmod(1) does.
                _ => mode & !(self.classes & if is_dir { 0o1777 } else { 0o7777 }) | bits,
            };
        }
        mode
    }

    fn bits(&self, permissions: &str, mode: u32, is_dir: bool) -> u32 {
        let copied = match permissions {
            "u" => Some(mode >> 6 & 7),
            "g" => Some(mode >> 3 & 7),
            "o" => Some(mode & 7),
            _ => None,
        };
        if let Some(bits) = copied {
            return (bits << 6 | bits << 3 | bits) & self.classes;
        }
        let mut bits = 0;
        for permission in permissions.chars() {
            bits |= match permission {
                'r' => READ,
                'w' => WRITE,
                'x' => EXECUTE,
                'X' if is_dir || mode & EXECUTE != 0 => EXECUTE,
                's' => SET_ID,
                't' => STICKY,
                _ => 0,
            };
        }
        bits & self.classes
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
        check("g=rx", 0o2755, true, 0o2755);
    }

    #[test]
    fn refuses_what_is_no_mode() {
        for text in ["", "x", "u", "q+x", "u+q", "755", "u+rw u"] {
            assert!(!is_clause(text), "{text}");
        }
        for text in ["u=", "a+rwXst", "=", "ug-x+r"] {
            assert!(is_clause(text), "{text}");
        }
    }
}
