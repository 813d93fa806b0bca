//! Which cluster a cache directory serves: a file in each of log.dirs, so that a bucket of another cluster is noticed.
//!
//! The directories hold no truth: a file that is gone is written again, and wiping a directory makes it anybody's.

use std::path::PathBuf;

use tidemark_proto::id::ClusterId;
use uuid::Uuid;

const NAME: &str = "tidemark-cluster-id";

/// The cluster that `dirs` have served, where they have; `wanted` is the configured one.
pub fn read(dirs: &[PathBuf], wanted: Option<ClusterId>) -> Result<Option<ClusterId>, String> {
    let mut found = wanted;
    for dir in dirs {
        let Ok(text) = std::fs::read_to_string(dir.join(NAME)) else { continue };
        let Ok(id) = Uuid::try_parse(text.trim()).map(ClusterId) else { continue };
        if let Some(other) = found.filter(|other| *other != id) {
            return Err(format!(
                "log.dirs: {} has served cluster {id}, not {other}; empty it (it is only a cache), or correct cluster.id",
                dir.display()
            ));
        }
        found = Some(id);
    }
    Ok(found)
}

/// Marks `dirs` as serving cluster `id`.
pub fn write(dirs: &[PathBuf], id: ClusterId) {
    for dir in dirs {
        if let Err(error) = std::fs::write(dir.join(NAME), format!("{id}\n")) {
            tracing::warn!(dir = %dir.display(), %error, "the cluster's id could not be noted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_53_directories_remember_their_cluster_and_a_wiped_one_is_anybodys() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().to_owned()];
        let (ours, theirs) = (ClusterId(Uuid::from_u128(1)), ClusterId(Uuid::from_u128(2)));
        assert_eq!(read(&dirs, None), Ok(None));
        assert_eq!(read(&dirs, Some(theirs)), Ok(Some(theirs)));
        write(&dirs, ours);
        assert_eq!(read(&dirs, None), Ok(Some(ours)));
        assert!(read(&dirs, Some(theirs)).is_err_and(|why| why.contains("empty it")));
        std::fs::write(dir.path().join(NAME), "garbage").unwrap();
        assert_eq!(read(&dirs, None), Ok(None));
    }
}
