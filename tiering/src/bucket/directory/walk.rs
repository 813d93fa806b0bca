//! Listing: the objects below a folder and above a key, without entering folders that cannot hold any.

use std::fs::{self, Metadata};
use std::io;
use std::path::Path as FilePath;
use std::time::SystemTime;

use object_store::ObjectMeta;
use object_store::path::Path;

pub(super) fn meta(location: Path, found: &Metadata) -> ObjectMeta {
    let last_modified = found.modified().unwrap_or(SystemTime::UNIX_EPOCH).into();
    ObjectMeta { location, last_modified, size: found.len(), e_tag: None, version: None }
}

pub(super) fn walk(root: &FilePath, prefix: &Path, offset: &Path) -> io::Result<Vec<ObjectMeta>> {
    let mut listed = Vec::new();
    let mut folders = vec![prefix.as_ref().to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(root.join(&folder)) {
            Ok(entries) => entries,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            Err(e) => return Err(e),
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
            let key = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
            if entry.file_type()?.is_dir() {
                if may_exceed(&format!("{key}/"), offset.as_ref()) {
                    folders.push(key);
                }
            } else if key.as_str() > offset.as_ref() {
                match (Path::parse(&key), entry.metadata()) {
                    (Ok(location), Ok(found)) => listed.push(meta(location, &found)),
                    (_, Err(e)) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {} // deleted meanwhile, or no key of ours
                }
            }
        }
    }
    listed.sort_by(|a, b| a.location.as_ref().cmp(b.location.as_ref()));
    Ok(listed)
}

/// Whether some key that begins with `prefix` is above `offset`.
fn may_exceed(prefix: &str, offset: &str) -> bool {
    prefix > offset || offset.starts_with(prefix)
}
