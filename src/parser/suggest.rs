//! The nearest of some known names, for `did you mean` hints.

/// The candidate that is closest to `word` and near enough to be a slip of the hand.
pub(crate) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    // Also bounds the work for the table of distances.
    if word.len() > 40 {
        return None;
    }
    let word = word.to_ascii_lowercase();
    candidates
        .iter()
        .map(|candidate| (distance(&word, &candidate.to_ascii_lowercase()), *candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The number of characters to insert, delete or replace to make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
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
        ] {
            assert_eq!(nearest(word, &names), expected, "{word}");
        }
    }
}
