//! The kernel's copy in memory of what every container starts from.
#![expect(
    unsafe_code,
    reason = "a file that is mapped can change under who reads it; nobody reads here"
)]

use std::ffi::c_void;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::ptr;

use rustix::fs::fadvise;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

/// Has the kernel keep all files below a folder in memory, in pages as large as it has. Returns how many bytes they are.
///
/// A process that maps a file takes a fault for each of its pages, or for several at once where the kernel keeps them together. How
/// it does that is decided when they are read or written first, and what was read little by little, as after a start of the node,
/// stays in small pages for as long as it is in use. So they are let go, as far as nobody has them mapped, and read anew.
///
/// Without large pages for files (Linux 6.16 has them for ext4, earlier versions for XFS) they are read all the same.
pub fn fill(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            bytes += fill(&entry.path())?;
        } else if kind.is_file() {
            bytes += fill_file(&File::open(entry.path())?)?;
        }
    }
    Ok(bytes)
}

fn fill_file(file: &File) -> io::Result<u64> {
    let bytes = file.metadata()?.len();
    let length = usize::try_from(bytes).map_err(io::Error::other)?;
    if length == 0 {
        return Ok(0);
    }
    fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?;
    // SAFETY: nothing is at the address that the kernel chooses, and nothing reads what is mapped there.
    let start = unsafe {
        mmap(
            ptr::null_mut(),
            length,
            ProtFlags::READ,
            MapFlags::SHARED,
            file,
            0,
        )?
    };
    let read = populate(start, length);
    // SAFETY: it was mapped above, and nothing refers to it.
    unsafe { munmap(start, length)? };
    read.map(|()| bytes)
}

/// Has the kernel read what is mapped there. A file that has become shorter meanwhile is an error, and no signal.
fn populate(start: *mut c_void, length: usize) -> io::Result<()> {
    // SAFETY: all of it is mapped, and neither changes what it holds.
    unsafe {
        let _ = madvise(start, length, Advice::LinuxHugepage); // without, they are small
        Ok(madvise(start, length, Advice::LinuxPopulateRead)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_are_read_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("lib")).unwrap();
        fs::write(path("lib/large"), vec![7; 3 << 20]).unwrap();
        fs::write(path("small"), "x").unwrap();
        fs::write(path("empty"), "").unwrap();
        std::os::unix::fs::symlink("/dev/zero", path("link")).unwrap();
        assert_eq!(fill(folder.path()).unwrap(), (3 << 20) + 1);
        assert_eq!(fs::read(path("lib/large")).unwrap(), vec![7; 3 << 20]);
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let error = fill(Path::new("/nonexistent")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
