//! What a row of the config table says, and how values are checked against it.
//!
//! One row per key: name, type, default, what is allowed, what we do with it, one line of doc. Parser, defaults,
//! DescribeConfigs, `--help` and CONFIG.md are all made from the rows in `keys/`. Knows no file and no broker.

use std::fmt;

/// Type of a value, as DescribeConfigs names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// 16 bits.
    Short,
    /// 32 bits.
    Int,
    /// 64 bits.
    Long,
    /// A decimal number.
    Double,
    /// Any text.
    Text,
    /// Texts separated by commas.
    List,
    /// A secret: never shown.
    Password,
    /// A Java class name in Kafka.
    Class,
}

impl Kind {
    /// Kafka's number for the type in DescribeConfigs v3.
    pub fn wire(self) -> i8 {
        match self {
            Kind::Bool => 1,
            Kind::Text => 2,
            Kind::Int => 3,
            Kind::Short => 4,
            Kind::Long => 5,
            Kind::Double => 6,
            Kind::List => 7,
            Kind::Class => 8,
            Kind::Password => 9,
        }
    }

    /// The type's name in documents.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Bool => "boolean",
            Kind::Short => "short",
            Kind::Int => "int",
            Kind::Long => "long",
            Kind::Double => "double",
            Kind::Text => "string",
            Kind::List => "list",
            Kind::Password => "password",
            Kind::Class => "class",
        }
    }
}

/// Which values a type's values are allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Allowed {
    /// All of the type.
    Any,
    /// Numbers from here up.
    AtLeast(i64),
    /// Numbers in a closed range.
    Between(i64, i64),
    /// Decimal numbers in a closed range.
    Within(f64, f64),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A list of these words.
    ListOf(&'static [&'static str]),
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Allowed::Any => f.write_str("any"),
            Allowed::AtLeast(low) => write!(f, "from {low}"),
            Allowed::Between(low, high) => write!(f, "{low} to {high}"),
            Allowed::Within(low, high) => write!(f, "{low} to {high}"),
            Allowed::OneOf(words) => write!(f, "one of {}", words.join(", ")),
            Allowed::ListOf(words) => write!(f, "a list of {}", words.join(", ")),
        }
    }
}

/// What we do with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// What Kafka does.
    Honour,
    /// Something of ours that serves the same purpose: which.
    Map(&'static str),
    /// It is accepted and reported, and has no effect: why.
    Note(&'static str),
    /// Anything but the default is refused: why.
    Reject(&'static str),
}

/// A topic key's default lives in broker keys: the first one that is set counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synonym {
    /// The broker's key.
    pub name: &'static str,
    /// What its value is multiplied by (hours to milliseconds).
    pub times: i64,
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Type of its values.
    pub kind: Kind,
    /// Its default; `None` means unset.
    pub default: Option<&'static str>,
    /// Values allowed.
    pub allowed: Allowed,
    /// What we do with it.
    pub treatment: Treatment,
    /// Whether it may be set on a running broker.
    pub dynamic: bool,
    /// Topic keys: the broker keys that give the default.
    pub synonyms: &'static [Synonym],
    /// Another name of the same key.
    pub alias: Option<&'static str>,
    /// Release that brought it.
    pub since: &'static str,
    /// One line for people.
    pub doc: &'static str,
}

/// A key that is honoured; the other builders refine it.
pub const fn key(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    let (allowed, treatment) = (Allowed::Any, Treatment::Honour);
    let default = Some(default);
    let (synonyms, since): (&[Synonym], _) = (&[], "0.1");
    Key { name, kind, default, allowed, treatment, dynamic: false, synonyms, alias: None, since, doc }
}

/// A key without a default.
pub const fn unset(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { default: None, ..key(name, kind, "", doc) }
}

impl Key {
    /// Bounds its numbers from below.
    pub const fn at_least(self, low: i64) -> Key {
        Key { allowed: Allowed::AtLeast(low), ..self }
    }

    /// Bounds its numbers.
    pub const fn between(self, low: i64, high: i64) -> Key {
        Key { allowed: Allowed::Between(low, high), ..self }
    }

    /// Bounds its decimal numbers.
    pub const fn within(self, low: f64, high: f64) -> Key {
        Key { allowed: Allowed::Within(low, high), ..self }
    }

    /// Names its words.
    pub const fn one_of(self, words: &'static [&'static str]) -> Key {
        Key { allowed: Allowed::OneOf(words), ..self }
    }

    /// Names the words its lists are made of.
    pub const fn list_of(self, words: &'static [&'static str]) -> Key {
        Key { allowed: Allowed::ListOf(words), ..self }
    }

    /// Serves the same purpose in another way.
    pub const fn map(self, to: &'static str) -> Key {
        Key { treatment: Treatment::Map(to), ..self }
    }

    /// Has no effect.
    pub const fn note(self, why: &'static str) -> Key {
        Key { treatment: Treatment::Note(why), ..self }
    }

    /// Is refused when set to anything but its default.
    pub const fn reject(self, why: &'static str) -> Key {
        Key { treatment: Treatment::Reject(why), ..self }
    }

    /// May be set on a running broker.
    pub const fn dynamic(self) -> Key {
        Key { dynamic: true, ..self }
    }

    /// Takes its default from broker keys.
    pub const fn from(self, synonyms: &'static [Synonym]) -> Key {
        Key { synonyms, ..self }
    }

    /// Has another name too.
    pub const fn alias(self, name: &'static str) -> Key {
        Key { alias: Some(name), ..self }
    }

    /// Whether its value is never shown.
    pub fn is_secret(&self) -> bool {
        self.kind == Kind::Password
    }

    /// The value as it will be used, or a sentence: what is wrong, what is allowed.
    pub fn check(&self, value: &str) -> Result<String, String> {
        let value = value.trim();
        let shown = if self.is_secret() { "…" } else { value };
        let wrong = |what: &str| format!("{}: '{shown}' {what}", self.name);
        let allowed = self.allowed;
        let as_number = |bits: &str, low: i64, high: i64| {
            let number: i64 = value.parse().map_err(|_| wrong(&format!("is not a whole number{bits}")))?;
            let fits = match allowed {
                Allowed::AtLeast(bound) => number >= bound,
                Allowed::Between(from, to) => (from..=to).contains(&number),
                _ => true,
            };
            match fits && (low..=high).contains(&number) {
                true => Ok(number.to_string()),
                false if fits => Err(wrong(&format!("is out of range; allowed: {low} to {high}"))),
                false => Err(wrong(&format!("is out of range; allowed: {allowed}"))),
            }
        };
        let checked = match self.kind {
            Kind::Bool => match value.to_ascii_lowercase().as_str() {
                word @ ("true" | "false") => Ok(word.to_owned()),
                _ => Err(wrong("is not a boolean; allowed: true, false")),
            },
            Kind::Short => as_number(" of 16 bits", i64::from(i16::MIN), i64::from(i16::MAX)),
            Kind::Int => as_number(" of 32 bits", i64::from(i32::MIN), i64::from(i32::MAX)),
            Kind::Long => as_number("", i64::MIN, i64::MAX),
            Kind::Double => {
                let number: f64 = value.parse().map_err(|_| wrong("is not a decimal number"))?;
                let (low, high) = match allowed {
                    Allowed::Within(low, high) => (low, high),
                    _ => (f64::MIN, f64::MAX),
                };
                match (low..=high).contains(&number) {
                    true => Ok(value.to_owned()),
                    false => Err(wrong(&format!("is out of range; allowed: {allowed}"))),
                }
            }
            Kind::Text | Kind::Password | Kind::Class => match allowed {
                Allowed::OneOf(words) if !words.contains(&value) => {
                    Err(wrong(&format!("is not allowed; allowed: {}", words.join(", "))))
                }
                _ => Ok(value.to_owned()),
            },
            Kind::List => {
                let items: Vec<&str> = items(value).collect();
                match allowed {
                    Allowed::ListOf(words) if items.iter().any(|item| !words.contains(item)) => {
                        Err(wrong(&format!("is not allowed; allowed: a list of {}", words.join(", "))))
                    }
                    _ => Ok(items.join(",")),
                }
            }
        }?;
        match self.treatment {
            Treatment::Reject(why) if Some(checked.as_str()) != self.default.or(Some("")) => {
                Err(wrong(&format!("is not possible here: {why}")))
            }
            _ => Ok(checked),
        }
    }
}

/// The items of a list.
pub fn items(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// The name nearest to a misspelt one, if it is near.
pub fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let far = (name.len() / 4).clamp(1, 4);
    names.map(|known| (distance(name, known), known)).min().filter(|(d, _)| *d <= far).map(|(_, known)| known)
}

/// Edits between two names, a swap of neighbours counting as one.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i.max(j)
            } else {
                let change = usize::from(a[i - 1] != b[j - 1]);
                let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + change);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_values_name_the_key_the_value_and_what_is_allowed() {
        let ports = key("a.port", Kind::Int, "1", "").between(0, 65535);
        assert_eq!(ports.check("x").unwrap_err(), "a.port: 'x' is not a whole number of 32 bits");
        assert_eq!(ports.check("70000").unwrap_err(), "a.port: '70000' is out of range; allowed: 0 to 65535");
        assert_eq!(ports.check(" 7 ").unwrap(), "7");
        let words = key("a.word", Kind::Text, "x", "").one_of(&["x", "y"]);
        assert_eq!(words.check("z").unwrap_err(), "a.word: 'z' is not allowed; allowed: x, y");
        let list = key("a.list", Kind::List, "", "").list_of(&["x", "y"]);
        assert_eq!(list.check("x , y").unwrap(), "x,y");
        assert!(list.check("x,z").is_err());
    }

    #[test]
    fn a_secret_is_not_shown_even_when_it_is_wrong() {
        let secret = unset("a.secret", Kind::Password, "").reject("not here");
        assert!(!secret.check("hunter2").unwrap_err().contains("hunter2"));
    }

    #[test]
    fn a_misspelt_name_finds_its_neighbour_and_a_foreign_one_does_not() {
        let names = ["num.partitions", "log.retention.ms"];
        assert_eq!(nearest("num.partition", names.into_iter()), Some("num.partitions"));
        assert_eq!(nearest("log.retnetion.ms", names.into_iter()), Some("log.retention.ms"));
        assert_eq!(nearest("confluent.license", names.into_iter()), None);
    }
}
