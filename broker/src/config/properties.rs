//! The `server.properties` format: `key=value`, `key: value` or `key value`, `#` and `!` comments, backslash
//! escapes and continued lines, as Java reads them. Knows no key.

/// One setting and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// Number of its first line, from 1.
    pub line: usize,
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// Reads a file's text; an error is (line, what is wrong).
pub fn parse(text: &str) -> Result<Vec<Property>, (usize, String)> {
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, first)) = lines.next() {
        let start = first.trim_start_matches([' ', '\t', '\x0c', '\u{feff}']);
        if start.is_empty() || start.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = start.to_owned();
        while is_continued(&logical) {
            logical.pop();
            match lines.next() {
                Some((_, more)) => logical.push_str(more.trim_start_matches([' ', '\t', '\x0c'])),
                None => break,
            }
        }
        let (key, value) = split(&logical);
        let line = number + 1;
        let key = unescape(key).map_err(|why| (line, why))?;
        let value = unescape(value).map_err(|why| (line, why))?;
        found.push(Property { line, key, value });
    }
    Ok(found)
}

/// An odd number of backslashes at the end takes the next line in.
fn is_continued(line: &str) -> bool {
    line.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1
}

/// Splits at the first unescaped `=`, `:` or blank; blanks around the separator belong to neither side.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.find(|c: char| {
        let ends = !escaped && matches!(c, '=' | ':' | ' ' | '\t' | '\x0c');
        escaped = c == '\\' && !escaped;
        ends
    });
    let Some(end) = end else { return (line, "") };
    let blank = [' ', '\t', '\x0c'];
    let rest = line[end..].trim_start_matches(blank);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (&line[..end], rest.trim_start_matches(blank))
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            None => {}
            Some('t') => out.push('\t'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('f') => out.push('\x0c'),
            Some('u') => {
                let digits: String = chars.by_ref().take(4).collect();
                let code = u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 4);
                match code.and_then(char::from_u32) {
                    Some(c) => out.push(c),
                    None => {
                        return Err(format!("'\\u{digits}' is not four hexadecimal digits of a character"));
                    }
                }
            }
            Some(other) => out.push(other),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(usize, String, String)> {
        parse(text).unwrap().into_iter().map(|p| (p.line, p.key, p.value)).collect()
    }

    fn one(text: &str) -> (String, String) {
        let (_, key, value) = pairs(text).remove(0);
        (key, value)
    }

    #[test]
    fn keys_and_values_are_split_as_java_does() {
        for text in ["a.b=c d", "a.b = c d", "  a.b:c d", "a.b c d", "a.b\t=\tc d"] {
            assert_eq!(one(text), ("a.b".into(), "c d".into()), "{text}");
        }
        assert_eq!(one("a"), ("a".into(), String::new()));
        assert_eq!(one("a=b=c"), ("a".into(), "b=c".into()));
        assert_eq!(one(r"a\=b\:c\ d=e"), ("a=b:c d".into(), "e".into()));
        assert_eq!(one("listeners=PLAINTEXT://:9092"), ("listeners".into(), "PLAINTEXT://:9092".into()));
    }

    #[test]
    fn comments_blank_lines_and_continued_lines_keep_the_line_numbers() {
        let text = "# c\n\n! d\na=1\\\n   2\\\n   3\r\nb=C:\\\\\nc=\\u00e9\\t.\n";
        let expected =
            [(4, "a", "123"), (7, "b", "C:\\"), (8, "c", "é\t.")].map(|(n, k, v)| (n, k.into(), v.into()));
        assert_eq!(pairs(text), expected);
    }

    #[test]
    fn a_broken_escape_names_its_line() {
        assert_eq!(parse("a=1\nb=\\u12").unwrap_err().0, 2);
        assert!(parse("b=\\ud800").is_err());
    }
}
