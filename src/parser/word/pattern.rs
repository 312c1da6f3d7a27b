//! The patterns of `${v#p}`, `${v%p}` and `${v/p/w}`.
//!
//! They are matched by following all possible states at once, so the work is the product of the
//! two lengths whatever the pattern is. As in BuildKit, neither `*` nor `?` matches a line feed.

/// A pattern that was taken apart.
pub(super) struct Pattern(Vec<Token>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Char(char),
    Any,
    Star,
}

impl Pattern {
    /// Takes `text` apart, or `None` where a backslash stands before an ordinary character.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut tokens = Vec::new();
        let mut chars = text.chars();
        while let Some(ch) = chars.next() {
            let token = match ch {
                // Two stars match what one does.
                '*' if tokens.last() == Some(&Token::Star) => continue,
                '*' => Token::Star,
                '?' => Token::Any,
                '\\' => match chars.next() {
                    Some(next @ ('*' | '?' | '\\' | '}' | '/')) => Token::Char(next),
                    _ => return None,
                },
                _ => Token::Char(ch),
            };
            tokens.push(token);
        }
        Some(Self(tokens))
    }

    /// An upper bound of the steps that one use on `value` takes.
    pub(super) fn cost(&self, value: &str) -> usize {
        // `replace` may look at each character twice.
        (self.0.len() + 1).saturating_mul(value.len() + 1).saturating_mul(2)
    }

    /// `value` without the longest or shortest prefix that matches.
    pub(super) fn trim_prefix(&self, value: &str, longest: bool) -> String {
        let chars: Vec<char> = value.chars().collect();
        let len = prefix(&self.0, chars.iter().copied(), longest).unwrap_or(0);
        chars[len..].iter().collect()
    }

    /// `value` without the longest or shortest suffix that matches.
    pub(super) fn trim_suffix(&self, value: &str, longest: bool) -> String {
        let chars: Vec<char> = value.chars().collect();
        let reversed: Vec<Token> = self.0.iter().rev().copied().collect();
        let len = prefix(&reversed, chars.iter().rev().copied(), longest).unwrap_or(0);
        chars[..chars.len() - len].iter().collect()
    }

    /// `value` with the first match, or all of them, replaced; `None` beyond `max_bytes`.
    pub(super) fn replace(
        &self,
        value: &str,
        replacement: &str,
        all: bool,
        max_bytes: usize,
    ) -> Option<String> {
        let chars: Vec<char> = value.chars().collect();
        let mut out = String::new();
        let (mut copied, mut from) = (0, 0);
        while from <= chars.len() {
            let Some((start, end)) = self.find(&chars, from) else { break };
            out.extend(&chars[copied..start]);
            // An empty match that touches the match before it does not count.
            if end > copied || start == 0 {
                out.push_str(replacement);
            }
            if out.len() > max_bytes {
                return None;
            }
            copied = end;
            from = end.max(from + 1);
            if !all {
                break;
            }
        }
        out.extend(&chars[copied..]);
        Some(out)
    }

    /// The leftmost match at or behind `from`, and of those the longest.
    fn find(&self, chars: &[char], from: usize) -> Option<(usize, usize)> {
        let tokens = &self.0;
        // For each state the earliest start of a match that has come that far.
        let mut states: Vec<Option<usize>> = vec![None; tokens.len() + 1];
        let mut best: Option<(usize, usize)> = None;
        for at in from..=chars.len() {
            if best.is_none() {
                states[0] = earliest(states[0], Some(at));
            }
            for (i, token) in tokens.iter().enumerate() {
                if *token == Token::Star {
                    states[i + 1] = earliest(states[i + 1], states[i]);
                }
            }
            if let Some(start) = states[tokens.len()]
                && best.is_none_or(|(first, _)| start <= first)
            {
                best = Some((start, at));
            }
            let limit = best.map_or(usize::MAX, |(start, _)| start);
            if at == chars.len() || (best.is_some() && states.iter().all(Option::is_none)) {
                break;
            }
            for i in (0..=tokens.len()).rev() {
                let kept =
                    states[i].filter(|_| tokens.get(i) == Some(&Token::Star) && chars[at] != '\n');
                let moved = i.checked_sub(1).and_then(|before| {
                    states[before].filter(|_| accepts(tokens[before], chars[at]))
                });
                states[i] = earliest(kept, moved).filter(|start| *start <= limit);
            }
        }
        best
    }
}

fn earliest(a: Option<usize>, b: Option<usize>) -> Option<usize> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Whether a token other than a star matches `ch`.
fn accepts(token: Token, ch: char) -> bool {
    match token {
        Token::Char(expected) => expected == ch,
        Token::Any => ch != '\n',
        Token::Star => false,
    }
}

/// The length in characters of the longest or shortest prefix of `chars` that matches.
fn prefix(tokens: &[Token], chars: impl Iterator<Item = char>, longest: bool) -> Option<usize> {
    let mut states = vec![false; tokens.len() + 1];
    states[0] = true;
    let mut found = None;
    let mut at = 0;
    let mut chars = chars;
    loop {
        for (i, token) in tokens.iter().enumerate() {
            states[i + 1] |= states[i] && *token == Token::Star;
        }
        if states[tokens.len()] {
            found = Some(at);
            if !longest {
                return found;
            }
        }
        let Some(ch) = chars.next() else { return found };
        for i in (0..=tokens.len()).rev() {
            let kept = states[i] && tokens.get(i) == Some(&Token::Star) && ch != '\n';
            let moved = i
                .checked_sub(1)
                .is_some_and(|before| states[before] && accepts(tokens[before], ch));
            states[i] = kept || moved;
        }
        if !states.contains(&true) {
            return found;
        }
        at += 1;
    }
}
