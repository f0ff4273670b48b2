//! Small files that hold what they held before a crash, or what they were to hold, and never a part of it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Replaces a file's content and returns once it is on disk: written beside it, flushed, renamed, and the folder
/// flushed.
///
/// # Errors
/// When the disk refuses; the file is what it was then.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Makes a folder that is nobody else's business, if need be, and keeps other processes from using it under this name as
/// long as the answer lives.
///
/// # Errors
/// When the folder cannot be made, or another process has it.
pub fn lock(folder: &Path, name: &str) -> io::Result<File> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let lock = File::create(folder.join(format!("{name}.lock")))?;
    if lock.try_lock().is_err() {
        return Err(io::Error::other(format!(
            "another lockstep runs with the state folder {}; give each its own",
            folder.display()
        )));
    }
    Ok(lock)
}
