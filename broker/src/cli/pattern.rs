//! Names by pattern: `*` stands for any letters, `?` for one. A name without them stands for itself.

use super::Failure;

/// Whether `name` is what `pattern` describes.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // Where the last star stands, and how far it reaches so far.
    let mut star: Option<(usize, usize)> = None;
    let (mut p, mut n) = (0, 0);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, reach)) => {
                    star = Some((at, reach + 1));
                    p = at + 1;
                    n = reach + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Whether it is more than a name.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// Those of `names` that any of `patterns` describes (all without patterns), in order. A pattern that describes nothing
/// is an error: it is more often a slip than a wish.
pub fn choose(what: &str, patterns: &[String], names: Vec<String>) -> Result<Vec<String>, Failure> {
    if let Some(lost) = patterns.iter().find(|pattern| !names.iter().any(|name| matches(pattern, name))) {
        let list = if what == "key" { "configs get … --all".to_owned() } else { format!("{what}s list") };
        return Err(Failure::Failed(format!(
            "there is no {what} {lost}; `tidemark {list}` shows those there are"
        )));
    }
    let chosen = |name: &String| patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern, name));
    Ok(names.into_iter().filter(chosen).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_stand_for_letters() {
        for (pattern, name, want) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("a*", "abc", true),
            ("*c", "abcbc", true),
            ("a*b*d", "axbxcd", true),
            ("a*b*d", "axcd", false),
            ("?b", "ab", true),
            ("?", "", false),
            ("orders.*", "orders-x", false),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_that_describes_nothing_is_an_error() {
        let names = || vec!["a".to_owned(), "b1".to_owned(), "b2".to_owned()];
        assert_eq!(choose("topic", &[], names()).unwrap().len(), 3);
        assert_eq!(choose("topic", &["b*".to_owned()], names()).unwrap(), ["b1", "b2"]);
        assert!(choose("topic", &["c".to_owned()], names()).is_err());
    }
}
