//! The nearest of some known names, for `did you mean` hints.

/// The candidate that is closest to `word` and near enough to be a slip of the hand.
pub(crate) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    // Also bounds the work for the table of distances.
    if word.len() > 40 {
        return None;
    }
    let word = word.to_lowercase();
    candidates
        .iter()
        .filter(|candidate| candidate.len() <= 80)
        .map(|candidate| (distance(&word, &candidate.to_lowercase()), *candidate))
        // More than half of a word is not its spelling.
        .filter(|(distance, candidate)| {
            *distance <= 1 + candidate.len() / 4 && 2 * distance < candidate.len().max(1)
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The number of characters to insert, delete, replace or swap with the next to make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                let swapped = if swapped { rows[i - 2][j - 2] + 1 } else { replaced };
                replaced.min(swapped).min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1)
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_slips_but_no_far_words() {
        let names = ["RUN", "COPY", "ENTRYPOINT", "EXPOSE"];
        for (word, expected) in [
            ("RUNN", Some("RUN")),
            ("copi", Some("COPY")),
            ("ENTRIPONT", Some("ENTRYPOINT")),
            ("xyzzy", None),
            ("", None),
            ("FROBNICATE", None),
            ("YPCO", None),
            ("UNR", None),
            ("RNU", Some("RUN")),
            ("CPOY", Some("COPY")),
            ("r", None),
        ] {
            assert_eq!(nearest(word, &names), expected, "{word}");
        }
    }
}
