//! A machine with Debian's own kernel, in QEMU, for what must work there and not only on the kernel of this machine.
//!
//! `deploy/setup` unpacks the kernel. The machine has no disk and no network; its root is made of busybox and the files it
//! is given; it runs one script and switches itself off. Emulated, it boots in about four seconds.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::error::AtPath;
use crate::{Error, tools};

/// Where `deploy/setup` unpacks Debian's kernel.
const KERNEL_DIR: &str = "/var/lib/jlb-setup/kernel";

const START: &str = "jlb-vm: start";
const EXIT: &str = "jlb-vm: exit ";

/// A machine that is going to be.
#[derive(Debug)]
pub struct Vm {
    root: PathBuf,
    kernel: PathBuf,
    modules: PathBuf,
    load: Vec<String>,
}

/// How the script in the machine ended.
#[derive(Debug)]
pub struct Outcome {
    /// Exit status of the script.
    pub status: i32,
    /// What it printed, and what the kernel said meanwhile.
    pub output: String,
}

impl Vm {
    /// A machine with busybox alone.
    pub fn new() -> Result<Self, Error> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let kernel_dir = Path::new(KERNEL_DIR);
        let kernel = only_entry(&kernel_dir.join("boot"), "vmlinuz-")?;
        let modules = only_entry(&kernel_dir.join("lib/modules"), "")?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("jlb-vm-{}-{number}", std::process::id()));
        let vm = Self { root, kernel, modules, load: Vec::new() };
        for dir in ["bin", "proc", "sys", "dev", "tmp", "run", "modules"] {
            let path = vm.root.join(dir);
            fs::create_dir_all(&path).at(&path)?;
        }
        vm.file(Path::new("/bin/busybox"), "/bin/busybox")?;
        let sh = vm.root.join("bin/sh");
        symlink("busybox", &sh).at(&sh)?;
        Ok(vm)
    }

    /// Puts a file of this machine into that one.
    pub fn file(&self, from: &Path, to: &str) -> Result<(), Error> {
        let target = self.root.join(to.trim_start_matches('/'));
        if let Some(dir) = target.parent() {
            fs::create_dir_all(dir).at(dir)?;
        }
        fs::copy(from, &target).at(from)?;
        Ok(())
    }

    /// Puts a program of this machine into that one, at `/bin`, with the libraries that it is linked to.
    pub fn program(&self, path: &Path) -> Result<(), Error> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.file(path, &format!("/bin/{name}"))?;
        // "\tlibelf.so.1 => /lib/x86_64-linux-gnu/libelf.so.1 (0x…)" or "\t/lib64/ld-linux-x86-64.so.2 (0x…)"
        let libraries = tools::run(Command::new("ldd").arg(path), "")?;
        for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            self.file(Path::new(library), library)?;
        }
        Ok(())
    }

    /// Has a kernel module loaded at the start, and before it those that it needs.
    pub fn module(&mut self, name: &str) -> Result<(), Error> {
        let list = self.modules.join("modules.dep");
        let text = fs::read_to_string(&list).at(&list)?;
        let damaged = |why: String| Error::Damaged { path: list.clone(), why };
        let wanted = format!("/{name}.ko");
        let (module, needs) = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(module, _)| module.ends_with(&wanted))
            .ok_or_else(|| damaged(format!("names no module {name}")))?;
        // Each is listed before what it needs itself.
        let files = needs.split_whitespace().rev().chain([module]);
        let mut loaded: BTreeSet<String> = self.load.iter().cloned().collect();
        for file in files {
            let base = file.rsplit('/').next().unwrap_or(file).to_owned();
            if loaded.insert(base.clone()) {
                self.file(&self.modules.join(file), &format!("/modules/{base}"))?;
                self.load.push(base);
            }
        }
        Ok(())
    }

    /// Boots, runs a busybox shell script as root, and waits until the machine is off. An error if it takes longer than
    /// `at_most`, or never comes to the script's end.
    pub fn run(&self, script: &str, at_most: Duration) -> Result<Outcome, Error> {
        let script_path = self.root.join("script");
        fs::write(&script_path, script).at(&script_path)?;
        let init = self.root.join("init");
        fs::write(&init, self.init()).at(&init)?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).at(&init)?;
        let archive = self.root.with_extension("cpio");
        let packed =
            pack(&self.root, &archive).and_then(|()| boot(&self.kernel, &archive, at_most));
        // Only a file in /tmp, should it stay.
        let _ = fs::remove_file(&archive);
        parse(&packed?)
    }

    fn init(&self) -> String {
        let insmod: String =
            self.load.iter().map(|file| format!("insmod /modules/{file}\n")).collect();
        format!(
            "#!/bin/sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
{insmod}echo '{START}'
sh /script 2>&1
echo '{EXIT}'$?
poweroff -f
"
        )
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Only files in /tmp, should they stay.
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn only_entry(dir: &Path, prefix: &str) -> Result<PathBuf, Error> {
    let mut found = None;
    for entry in
        fs::read_dir(dir).map_err(|_| Error::NoProgram("Debian's kernel for QEMU".to_owned()))?
    {
        let entry = entry.at(dir)?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            found = Some(entry.path());
        }
    }
    found.ok_or_else(|| Error::Damaged { path: dir.to_owned(), why: format!("holds no {prefix}*") })
}

fn pack(root: &Path, archive: &Path) -> Result<(), Error> {
    let script = format!(
        "cd '{}' && find . | cpio --quiet -o -H newc >'{}'",
        root.display(),
        archive.display()
    );
    tools::run(Command::new("sh").args(["-eu", "-c", &script]), "").map(drop)
}

fn boot(kernel: &Path, archive: &Path, at_most: Duration) -> Result<String, Error> {
    let program = "qemu-system-x86_64";
    // -cpu max: the eBPF test wants what a machine of today has. TCG: a guest kernel under KVM is not to be had everywhere.
    let mut child = Command::new(program)
        .args([
            "-machine",
            "q35",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "1",
            "-m",
            "768",
        ])
        .args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(archive)
        .args(["-append", "console=ttyS0 panic=-1 quiet"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|_| Error::NoProgram(program.to_owned()))?;
    let mut console = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is still what the machine said.
        let _ = console.as_mut().map(|pipe| pipe.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).replace('\r', "")
    });
    let deadline = Instant::now() + at_most;
    while child.try_wait().at(program)?.is_none() {
        if Instant::now() >= deadline {
            child.kill().at(program)?;
            child.wait().at(program)?;
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(reader.join().unwrap_or_default())
}

fn parse(console: &str) -> Result<Outcome, Error> {
    let inside = console.split_once(START).map(|(_, rest)| rest);
    let ended = inside.and_then(|rest| rest.split_once(EXIT));
    let outcome = ended.and_then(|(output, rest)| {
        let status = rest.lines().next()?.trim().parse().ok()?;
        Some(Outcome { status, output: output.trim_start().to_owned() })
    });
    outcome.ok_or_else(|| Error::VmLost { console: console.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_words_and_status_are_found_between_the_kernels() {
        let outcome =
            parse("[0.1] kernel\njlb-vm: start\none\ntwo\njlb-vm: exit 3\n[9] off\n").unwrap();
        assert_eq!((outcome.status, outcome.output.as_str()), (3, "one\ntwo\n"));
    }

    #[test]
    fn a_machine_that_hangs_or_panics_is_an_error_with_its_console() {
        let error = parse("jlb-vm: start\nKernel panic").unwrap_err();
        assert!(error.to_string().contains("Kernel panic"));
    }
}
