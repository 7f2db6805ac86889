//! The memory of this machine, and of the control groups that this process is in, as Linux tells in files.
//!
//! A limit of any group above the process's own binds it as well, so all groups up to the root are read, in version 1
//! and version 2 of control groups.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

/// Bytes that this process may use at most; `None` where nothing says so.
#[must_use]
pub fn available_bytes() -> Option<u64> {
    Machine::here().available_bytes()
}

/// Bytes that this process may take now without swapping, as the kernel estimates it; `None` where nothing says so.
/// The page cache counts as free: mapped weights can be read again.
#[must_use]
pub fn free_bytes() -> Option<u64> {
    Machine::here().free_bytes()
}

/// A file system with `/proc` and `/sys`.
#[derive(Debug)]
struct Machine<'a> {
    root: &'a Path,
}

impl Machine<'_> {
    fn here() -> Machine<'static> {
        Machine { root: Path::new("/") }
    }

    fn available_bytes(&self) -> Option<u64> {
        let limits = self.groups().into_iter().filter_map(|group| group.limit());
        limits.chain(self.fact("MemTotal:")).min()
    }

    fn free_bytes(&self) -> Option<u64> {
        let free = self.groups().into_iter().filter_map(|group| group.free());
        free.chain(self.fact("MemAvailable:")).min()
    }

    /// A line of `/proc/meminfo`.
    fn fact(&self, name: &str) -> Option<u64> {
        line(&read_to_string(self.root.join("proc/meminfo")).ok()?, name)
    }

    /// The groups that bind this process: its own and all above it that can be seen from here.
    fn groups(&self) -> Vec<Group> {
        let read = |path: &str| read_to_string(self.root.join(path)).unwrap_or_default();
        let (memberships, mounts) = (read("proc/self/cgroup"), read("proc/self/mountinfo"));
        let found: Vec<Group> = mounts
            .lines()
            .filter_map(Mount::parse)
            .flat_map(|mount| {
                let own = memberships.lines().find_map(|line| mount.membership(line)).unwrap_or_default();
                let top = self.root.join(mount.point.trim_start_matches('/'));
                let directory = top.join(own.trim_start_matches('/'));
                let up: Vec<PathBuf> =
                    directory.ancestors().take_while(|path| path.starts_with(&top)).map(Path::to_owned).collect();
                up.into_iter().map(move |directory| Group { directory, files: mount.files })
            })
            .collect();
        if !found.is_empty() {
            return found;
        }
        // Where the mounts cannot be read, the usual places.
        let usual = [("sys/fs/cgroup", &VERSION_2), ("sys/fs/cgroup/memory", &VERSION_1)];
        usual.into_iter().map(|(path, files)| Group { directory: self.root.join(path), files }).collect()
    }
}

/// The names of a group's files.
#[derive(Debug, PartialEq, Eq)]
struct Files {
    limit: &'static str,
    used: &'static str,
    /// The line of `memory.stat` that counts the page cache, of the groups below included.
    cached: &'static str,
}

const VERSION_1: Files =
    Files { limit: "memory.limit_in_bytes", used: "memory.usage_in_bytes", cached: "total_cache " };
const VERSION_2: Files = Files { limit: "memory.max", used: "memory.current", cached: "file " };

/// A mount of control groups of memory, and the group that it shows as its top.
#[derive(Debug)]
struct Mount<'a> {
    top: &'a str,
    point: &'a str,
    files: &'static Files,
}

impl<'a> Mount<'a> {
    /// A line of `/proc/self/mountinfo`: `ID PARENT DEVICE TOP POINT OPTIONS … - TYPE SOURCE OPTIONS`.
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, kind) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (top, point) = (mount.next()?, mount.next()?);
        let mut kind = kind.split(' ');
        let files = match (kind.next()?, kind.nth(1)) {
            ("cgroup2", _) => &VERSION_2,
            ("cgroup", Some(options)) if options.split(',').any(|option| option == "memory") => &VERSION_1,
            _ => return None,
        };
        Some(Self { top, point, files })
    }

    /// The process's group below this mount's top, where `line` of `/proc/self/cgroup` names it: `ID:CONTROLLERS:PATH`,
    /// without controllers for version 2.
    fn membership(&self, line: &'a str) -> Option<&'a str> {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let is_ours = match self.files {
            files if *files == VERSION_2 => controllers.is_empty(),
            _ => controllers.split(',').any(|controller| controller == "memory"),
        };
        // A path out of the mount's sight (`/..`) leaves its top as the one that is known to bind.
        is_ours.then(|| {
            path.strip_prefix(self.top.trim_end_matches('/')).filter(|path| !path.contains("..")).unwrap_or("")
        })
    }
}

/// A control group.
#[derive(Debug)]
struct Group {
    directory: PathBuf,
    files: &'static Files,
}

impl Group {
    fn limit(&self) -> Option<u64> {
        number(&self.read(self.files.limit)?)
    }

    /// Bytes that it leaves: its limit less its use, but for the page cache.
    fn free(&self) -> Option<u64> {
        let (limit, used) = (self.limit()?, number(&self.read(self.files.used)?)?);
        let facts = self.read("memory.stat").unwrap_or_default();
        let cached = facts.lines().find_map(|line| number(line.strip_prefix(self.files.cached)?)).unwrap_or(0);
        Some(limit.saturating_sub(used.saturating_sub(cached)))
    }

    fn read(&self, name: &str) -> Option<String> {
        read_to_string(self.directory.join(name)).ok()
    }
}

/// A control group's limit; `max` is none.
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// A line of `/proc/meminfo`, in bytes.
fn line(facts: &str, name: &str) -> Option<u64> {
    let line = facts.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const MEMINFO: &str = "MemTotal: 67108864 kB\nMemFree: 1 kB\nMemAvailable: 33554432 kB\n";
    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "33 30 0:29 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                      34 30 0:30 / /sys/fs/cgroup/cpu rw shared:10 - cgroup cgroup rw,cpu,cpuacct\n";

    /// A machine of 64 GiB, half of it free, with these files besides.
    fn machine(files: &[(&str, String)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for (path, text) in files.iter().cloned().chain([("proc/meminfo", MEMINFO.to_owned())]) {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("makes it");
            std::fs::write(path, text).expect("writes");
        }
        root
    }

    fn seen(files: &[(&str, String)]) -> (Option<u64>, Option<u64>) {
        let root = machine(files);
        let machine = Machine { root: root.path() };
        (machine.available_bytes(), machine.free_bytes())
    }

    #[test]
    fn linux_words_are_understood() {
        assert_eq!(line("MemFree: 3 kB\nMemTotal:       16384 kB\n", "MemTotal:"), Some(16 << 20));
        assert_eq!((line("nothing", "MemTotal:"), number("max\n"), number("4096\n")), (None, None, Some(4096)));
        assert!(available_bytes().is_some_and(|bytes| bytes > 1 << 20));
        assert!(free_bytes().is_some_and(|bytes| bytes > 1 << 20 && bytes <= available_bytes().unwrap_or(0)));
    }

    #[test]
    fn without_groups_the_machine_is_the_limit() {
        assert_eq!(seen(&[]), (Some(64 * GIB), Some(32 * GIB)));
    }

    #[test]
    fn the_smallest_limit_on_the_way_up_binds_in_version_2() {
        let in_group = |limits: [&str; 4]| {
            let [top, slice, unit, leaf] = limits.map(|limit| format!("{limit}\n"));
            seen(&[
                ("proc/self/cgroup", "0::/a.slice/b.service/leaf\n".into()),
                ("proc/self/mountinfo", V2.into()),
                ("sys/fs/cgroup/memory.max", top),
                ("sys/fs/cgroup/a.slice/memory.max", slice),
                ("sys/fs/cgroup/a.slice/b.service/memory.max", unit),
                ("sys/fs/cgroup/a.slice/b.service/leaf/memory.max", leaf),
                ("sys/fs/cgroup/a.slice/other/memory.max", "1\n".into()),
            ])
            .0
        };
        let one = GIB.to_string();
        for limits in [
            ["max", "max", "max", &one],
            ["max", "max", &one, "max"],
            ["max", &one, "max", "max"],
            [&one, "max", "max", "max"],
        ] {
            assert_eq!(in_group(limits), Some(GIB), "{limits:?}");
        }
        assert_eq!(in_group(["max"; 4]), Some(64 * GIB));
    }

    #[test]
    fn version_1_is_read_up_to_its_root_too() {
        let unlimited = "9223372036854771712\n".to_owned();
        let seen = seen(&[
            ("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/y\n".into()),
            ("proc/self/mountinfo", V1.into()),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", unlimited.clone()),
            ("sys/fs/cgroup/memory/docker/memory.limit_in_bytes", (2 * GIB).to_string()),
            ("sys/fs/cgroup/memory/docker/memory.usage_in_bytes", GIB.to_string()),
            ("sys/fs/cgroup/memory/docker/memory.stat", format!("cache 7\ntotal_cache {}\n", GIB / 2)),
            ("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", unlimited),
        ]);
        assert_eq!(seen, (Some(2 * GIB), Some(2 * GIB - GIB / 2)));
    }

    #[test]
    fn what_a_container_sees_of_its_group_counts() {
        // The mount shows the container's own group as its top, and the process names it by the host's path.
        let mount = V2.replacen(" / ", " /kubepods/pod1/abc ", 1);
        for membership in ["0::/kubepods/pod1/abc\n", "0::/\n", "0::/../elsewhere\n"] {
            let seen = seen(&[
                ("proc/self/cgroup", membership.into()),
                ("proc/self/mountinfo", mount.clone()),
                ("sys/fs/cgroup/memory.max", GIB.to_string()),
                ("sys/fs/cgroup/memory.current", GIB.to_string()),
                ("sys/fs/cgroup/memory.stat", format!("anon 1\nfile {}\nfile_mapped 3\n", GIB / 4)),
            ]);
            assert_eq!(seen, (Some(GIB), Some(GIB / 4)), "{membership}");
        }
    }

    #[test]
    fn without_mounts_the_usual_places_are_read() {
        assert_eq!(seen(&[("sys/fs/cgroup/memory.max", GIB.to_string())]).0, Some(GIB));
        assert_eq!(seen(&[("sys/fs/cgroup/memory/memory.limit_in_bytes", GIB.to_string())]).0, Some(GIB));
    }
}
