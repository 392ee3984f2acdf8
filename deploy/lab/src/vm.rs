//! A machine with Debian's own kernel, in QEMU, for what must work there and not only on the kernel of this machine.
//!
//! `deploy/setup` unpacks the kernel. The machine has no disk, and no network but the cards that it is given; its root is
//! made of busybox and the files it is given; it runs one script and switches itself off. Emulated, it boots in about four
//! seconds.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::AtPath;
use crate::{Error, Node, tools};

/// Where `deploy/setup` unpacks Debian's kernel.
const KERNEL_DIR: &str = "/var/lib/jlb-setup/kernel";

/// For hugepages of a daemon, beside a root in memory.
const MEMORY_MIB: &str = "1024";
const APPEND: &str = "console=ttyS0 panic=-1 quiet intel_iommu=on";
/// How often a machine is looked at.
const POLL: Duration = Duration::from_millis(50);

const START: &str = "jlb-vm: start";
const EXIT: &str = "jlb-vm: exit ";

/// A machine that is going to be.
#[derive(Debug)]
pub struct Vm {
    root: PathBuf,
    kernel: PathBuf,
    modules: PathBuf,
    load: Vec<String>,
    cards: Vec<Card>,
    /// In whose network namespace QEMU runs.
    on: Option<Node>,
}

/// An emulated network card, on the PCI bus behind an IOMMU.
#[derive(Clone, Debug)]
pub struct Card {
    /// QEMU's name of it: `e1000e`, `vmxnet3`, `virtio-net-pci`.
    pub model: &'static str,
    /// Its Ethernet address.
    pub mac: String,
    /// Its device number on bus 0: 5 makes it `0000:00:05.0`.
    pub slot: u8,
    /// The TAP interface that its cable ends in.
    pub tap: String,
}

/// A machine that runs.
#[derive(Debug)]
pub struct Live {
    child: Child,
    keyboard: Option<ChildStdin>,
    console: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
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
        let vm = Self { root, kernel, modules, load: Vec::new(), cards: Vec::new(), on: None };
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
        self.libraries_of(path)
    }

    /// Puts a library that programs load by themselves into that one, at the same place, with those that it needs.
    pub fn library(&self, path: &Path) -> Result<(), Error> {
        self.file(path, &path.to_string_lossy())?;
        self.libraries_of(path)
    }

    /// Gives it a network card.
    pub fn card(&mut self, card: Card) {
        self.cards.push(card);
    }

    /// Has QEMU run on this host of a lab, where the ends of the cards' cables are.
    pub fn on(&mut self, node: &Node) {
        self.on = Some(node.clone());
    }

    fn libraries_of(&self, path: &Path) -> Result<(), Error> {
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
        self.start(script)?.end(at_most)
    }

    /// Boots, and runs a busybox shell script as root. What the script reads is what [`Live::say`] is given.
    pub fn start(&self, script: &str) -> Result<Live, Error> {
        let script_path = self.root.join("script");
        fs::write(&script_path, script).at(&script_path)?;
        let init = self.root.join("init");
        fs::write(&init, self.init()).at(&init)?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).at(&init)?;
        let archive = self.root.with_extension("cpio");
        pack(&self.root, &archive)?;
        self.boot(&archive)
    }

    fn boot(&self, archive: &Path) -> Result<Live, Error> {
        let program = "qemu-system-x86_64";
        let mut command = match &self.on {
            Some(node) => node.command(program),
            None => Command::new(program),
        };
        // -cpu max: the eBPF test wants what a machine of today has. TCG: a guest kernel under KVM is not to be had
        // everywhere.
        command
            .args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1"])
            .args(["-m", MEMORY_MIB, "-nodefaults", "-display", "none", "-no-reboot"])
            .args(["-serial", "stdio", "-append", APPEND, "-kernel"])
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(archive);
        if !self.cards.is_empty() {
            // Before what is behind it. vfio wants interrupts remapped, too.
            command.args(["-device", "intel-iommu,intremap=on"]);
        }
        for (n, card) in self.cards.iter().enumerate() {
            let tap =
                format!("tap,id=card{n},ifname={},script=no,downscript=no,vnet_hdr=off", card.tap);
            command.args(["-netdev", &tap, "-device", &card.device(n)]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|_| Error::NoProgram(program.to_owned()))?;
        let keyboard = child.stdin.take();
        let console = Arc::new(Mutex::new(Vec::new()));
        // What QEMU itself complains of belongs there, too.
        let out = child.stdout.take().map(|pipe| listen(pipe, &console));
        let errors = child.stderr.take().map(|pipe| listen(pipe, &console));
        let readers = out.into_iter().chain(errors).collect();
        Ok(Live { child, keyboard, console, readers })
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

impl Card {
    /// `0000:00:05.0`.
    pub fn address(&self) -> String {
        format!("0000:00:{:02x}.0", self.slot)
    }

    fn device(&self, n: usize) -> String {
        // An older virtio card passes the IOMMU by, and then vfio cannot have it.
        let more = if self.model.starts_with("virtio") {
            ",disable-legacy=on,iommu_platform=on"
        } else {
            ""
        };
        format!("{},netdev=card{n},mac={},addr={:#x}{more}", self.model, self.mac, self.slot)
    }
}

impl Live {
    /// What the machine has said until now.
    pub fn console(&self) -> String {
        let bytes = self.console.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    /// Waits until the machine has said this, at most so long.
    pub fn wait_for(&mut self, words: &str, at_most: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + at_most;
        loop {
            let console = self.console();
            if console.contains(words) {
                return Ok(());
            }
            if self.has_ended()? || Instant::now() >= deadline {
                return Err(Error::VmLost { console });
            }
            std::thread::sleep(POLL);
        }
    }

    /// Types a line.
    pub fn say(&mut self, line: &str) -> Result<(), Error> {
        match &mut self.keyboard {
            Some(keyboard) => writeln!(keyboard, "{line}").at("qemu"),
            None => Ok(()),
        }
    }

    /// Waits until the machine is off. An error if it takes longer, or never came to the script's end.
    pub fn end(mut self, at_most: Duration) -> Result<Outcome, Error> {
        let deadline = Instant::now() + at_most;
        while !self.has_ended()? && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
        self.kill();
        parse(&self.console())
    }

    fn has_ended(&mut self) -> Result<bool, Error> {
        Ok(self.child.try_wait().at("qemu")?.is_some())
    }

    fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for reader in self.readers.drain(..) {
            // It has read all that there was.
            let _ = reader.join();
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Only files in /tmp, should they stay.
        let _ = fs::remove_file(self.root.with_extension("cpio"));
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

/// Collects what comes out of a pipe, until its end.
fn listen(mut pipe: impl Read + Send + 'static, console: &Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    let console = Arc::clone(console);
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        // What came before an error is still what was said.
        while let Ok(n @ 1..) = pipe.read(&mut bytes) {
            let mut console = console.lock().unwrap_or_else(PoisonError::into_inner);
            console.extend_from_slice(&bytes[..n]);
        }
    })
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
