//! A disk of a few megabytes, to be filled.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The user and group nobody: what root lends to servers that refuse root.
pub const NOBODY: u32 = 65534;

/// Whether this process may mount, and lend a user to others.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

/// A small tmpfs; unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one at `path`, owned by `owner`. None where mounting is not allowed.
    pub fn mount(path: &Path, megabytes: u64, owner: u32) -> Option<Self> {
        std::fs::create_dir_all(path).unwrap();
        let options = format!("size={megabytes}m,mode=700,uid={owner},gid={owner}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "rekey-storm"])
            .arg(path)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success());
        mounted.then(|| Self { path: path.to_owned() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    /// Takes all that is left, down to the last page. To be called again while it shall stay full: others give space
    /// back.
    pub fn fill(&self) {
        let mut ballast = std::fs::OpenOptions::new().create(true).append(true).open(self.ballast()).unwrap();
        for block in [1 << 20, 1 << 12] {
            let zeros = vec![0; block];
            loop {
                match ballast.write(&zeros) {
                    Ok(n) if n > 0 => {}
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    _ => break,
                }
            }
        }
    }

    /// Gives the space back.
    pub fn free(&self) {
        let _ = std::fs::remove_file(self.ballast());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: whatever still has a file open there does not keep it for good.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
