//! Where the bucket is and how to reach it: the URL, credentials, price table.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::price::Prices;

/// How to reach a bucket.
#[derive(Clone, Debug)]
pub struct Config {
    /// `file:///dir`, `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or `memory:`.
    pub url: String,
    /// Address of a server of one's own; `None` for the cloud's.
    pub endpoint: Option<String>,
    /// Region, where the store has any.
    pub region: Option<String>,
    /// Whether the bucket's name goes into the path; by default only with an endpoint of one's own.
    pub path_style: Option<bool>,
    /// Access key (S3) or account (Azure); by default from the usual environment.
    pub access_key: Option<String>,
    /// Its secret.
    pub secret_key: Option<Secret>,
    /// Token of temporary credentials.
    pub session_token: Option<Secret>,
    /// Price table; by default from the host.
    pub price: Option<Prices>,
    /// Time allowed for an attempt, beyond what its bytes take at 1 MiB/s.
    pub attempt: Duration,
    /// Whether a directory that does not exist is made.
    pub create_directory: bool,
}

impl Config {
    /// The bucket at `url`, everything else by default.
    pub fn new(url: impl Into<String>) -> Config {
        Config {
            url: url.into(),
            endpoint: None,
            region: None,
            path_style: None,
            access_key: None,
            secret_key: None,
            session_token: None,
            price: None,
            attempt: Duration::from_secs(5),
            create_directory: false,
        }
    }

    /// Whether the URL is one of the forms known: found out without touching anything.
    pub fn check(&self) -> Result<(), OpenError> {
        Place::parse(&self.url).map(|_| ())
    }
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Secret {
        Secret(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Secret {
        Secret(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Which store a URL names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Directory(PathBuf),
    Memory,
    S3 { bucket: String, prefix: String },
    Gcs { bucket: String, prefix: String },
    Azure { container: String, prefix: String },
}

/// Why a bucket cannot be opened: one plain sentence, with the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(pub String);

impl Place {
    pub(super) fn parse(url: &str) -> Result<Place, OpenError> {
        if url == "memory:" || url == "memory://" {
            return Ok(Place::Memory);
        }
        let forms =
            "use file:///dir, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or memory:";
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(OpenError(format!("The bucket URL '{url}' is not understood; {forms}.")));
        };
        if scheme == "file" {
            if !rest.starts_with('/') {
                let why = "needs an absolute path; write three slashes, as in file:///var/lib/tidemark";
                return Err(OpenError(format!("The bucket URL '{url}' {why}.")));
            }
            return Ok(Place::Directory(PathBuf::from(rest)));
        }
        if rest.contains(['?', '#', '@']) {
            let why = "must hold no '?', '#' or '@'; credentials and options are settings of their own";
            return Err(OpenError(format!("The bucket URL for {scheme} {why}.")));
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/').to_owned();
        if bucket.is_empty() {
            return Err(OpenError(format!("The bucket URL '{url}' names no bucket; {forms}.")));
        }
        if object_store::path::Path::parse(&prefix).is_err() {
            let why = "has a prefix with empty, '.' or '..' parts or unusual characters; choose a plain one";
            return Err(OpenError(format!("The bucket URL '{url}' {why}.")));
        }
        let bucket = bucket.to_owned();
        match scheme {
            "s3" => Ok(Place::S3 { bucket, prefix }),
            "gs" => Ok(Place::Gcs { bucket, prefix }),
            "az" => Ok(Place::Azure { container: bucket, prefix }),
            _ => Err(OpenError(format!("The bucket URL scheme '{scheme}' is not known; {forms}."))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_stores() {
        assert_eq!(Place::parse("memory:"), Ok(Place::Memory));
        assert_eq!(Place::parse("file:///a/b"), Ok(Place::Directory("/a/b".into())));
        let s3 = Place::S3 { bucket: "b".into(), prefix: "p/q".into() };
        assert_eq!(Place::parse("s3://b/p/q/"), Ok(s3));
        let gs = Place::Gcs { bucket: "b".into(), prefix: String::new() };
        assert_eq!(Place::parse("gs://b"), Ok(gs));
    }

    #[test]
    fn bad_urls_are_refused_with_the_fix() {
        for (url, word) in [
            ("", "use file:///dir"),
            ("file://a", "three slashes"),
            ("s3://", "names no bucket"),
            ("s3://key:secret@b", "credentials"),
            ("ftp://b", "'ftp' is not known"),
            ("s3://b/a/../c", "'..'"),
        ] {
            let error = Place::parse(url).unwrap_err().to_string();
            assert!(error.contains(word), "{url}: {error}");
            assert!(!error.contains("secret@"), "{error}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut config = Config::new("s3://b");
        config.secret_key = Some("hunter2".into());
        config.session_token = Some("token99".into());
        let shown = format!("{config:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("token99"), "{shown}");
    }
}
