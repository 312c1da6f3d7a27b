//! The fields of a flag like `type=tar,"dest=a,b"`: one line of CSV, as Go reads it.

/// Splits at commas. A field in double quotes may hold commas, and quotes written twice.
pub(super) fn fields(text: &str) -> Result<Vec<String>, &'static str> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = if let Some(quoted) = rest.strip_prefix('"') {
            quoted_field(quoted)?
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            if rest[..end].contains('"') {
                return Err("a quote stands inside of a field that does not begin with one");
            }
            (rest[..end].to_owned(), &rest[end..])
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(fields),
            None => return Err("something stands behind a closing quote"),
        }
    }
}

/// A field as it is written so that it is read as this text.
pub(in crate::cli) fn quoted(field: &str) -> String {
    if field.contains([',', '"']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

/// What stands up to the closing quote, and what follows it.
fn quoted_field(text: &str) -> Result<(String, &str), &'static str> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"').ok_or("a quote is not closed")?;
        field.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None => return Ok((field, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_commas() {
        let check = |text: &str, expected: Option<&[&str]>| {
            let found = fields(text).ok();
            let found = found.as_ref().map(|all| all.iter().map(String::as_str).collect());
            assert_eq!(found, expected.map(<[&str]>::to_vec), "{text}");
        };
        check("", Some(&[""]));
        check("a=b,c", Some(&["a=b", "c"]));
        check("\"a,b\",\"c\"\"d\"", Some(&["a,b", "c\"d"]));
        check("a,", Some(&["a", ""]));
        check("\"a", None);
        check("a\"b\"", None);
        check("\"a\"b", None);
        for text in ["a=b", "a=b,c", "a=\"b\"", "\"", ""] {
            assert_eq!(fields(&quoted(text)).ok(), Some(vec![text.to_owned()]), "{text}");
        }
    }
}
