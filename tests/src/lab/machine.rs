//! A virtual machine: QEMU, its serial log, its end.
//!
//! Its kernels are told `no_timer_check`: where the computer is busy, an emulated timer ticks too late for the kernel's
//! test of it, and the guest panics ("IO-APIC + timer doesn't work").
//!
//! By default the machine is emulated (TCG): where `/dev/kvm` can be opened, a guest may still
//! hang at boot. `SYSTEMIMAGER_LAB_KVM=1` says that KVM is known to work here. The serial log
//! is one file from power-on to power-off, whatever the guest does in between; a failed test
//! prints its end. No machine outlives its test, however that ends.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::netns::Tap;
use super::run;
use super::wait::wait_until;

/// Slots are given, not left to QEMU, so that none is taken that a later device was promised.
const DISK_SLOT: u8 = 8;
const NIC_SLOT: u8 = 16;
/// The emulated processor. QEMU's richest one boots Debian with a fifth more work, an Intel one with half as much more
/// (its kernel then keeps page tables of its own). Without a random number instruction every mkfs waits for entropy.
const EMULATED: &str = "qemu64,+rdrand";

/// How a disk is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// `/dev/vda`
    VirtioBlk,
    /// SATA, `/dev/sda`
    Ahci,
    /// Parallel ATA, `/dev/sda` too
    Ide,
    /// `/dev/sda` by virtio
    VirtioScsi,
    /// `/dev/nvme0n1`
    Nvme,
    /// A stick that can be taken out, `/dev/sda` too
    Usb,
}

/// The kind of a network card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are QEMU's")]
pub enum Model {
    VirtioNet,
    E1000,
    E1000e,
}

/// What is in the card's boot ROM.
#[derive(Clone, Debug)]
pub enum Rom {
    /// QEMU's own, which is iPXE.
    Ipxe,
    /// None: the machine does not boot from this card, or does so by its firmware's own means.
    None,
    /// That file.
    File(PathBuf),
}

/// Where the machine boots from.
#[derive(Clone, Debug)]
pub enum Boot {
    /// The first disk.
    Disk,
    /// The network, at every start; then the first disk.
    Network,
    /// The network at the first start, the first disk after each restart.
    NetworkOnce,
    /// A kernel that QEMU loads.
    Kernel {
        /// The kernel's image.
        kernel: PathBuf,
        /// Its initial root file system.
        initrd: Option<PathBuf>,
        /// The kernel's command line.
        append: String,
    },
}

#[derive(Clone, Debug)]
struct Disk {
    path: PathBuf,
    bus: Bus,
    slot: Option<u8>,
    serial: Option<String>,
    options: String,
}

#[derive(Clone, Debug)]
struct Nic {
    tap: Tap,
    mac: String,
    model: Model,
    rom: Rom,
    slot: Option<u8>,
}

/// The last of the devices given, which [`Machine::slot`] is about.
#[derive(Clone, Copy, Debug)]
enum Last {
    Nothing,
    Disk,
    Nic,
}

/// A machine to be built: everything about it before it is switched on.
#[derive(Clone, Debug)]
pub struct Machine {
    name: String,
    directory: PathBuf,
    memory: u32,
    processors: u32,
    restarts: bool,
    boot: Boot,
    disks: Vec<Disk>,
    nics: Vec<Nic>,
    last: Last,
    more: Vec<String>,
}

impl Machine {
    /// A machine with 1 GiB and two processors that boots from its disk; its serial log will be
    /// `NAME.serial` in `directory`.
    pub fn new(name: &str, directory: &Path) -> Machine {
        Machine {
            name: name.to_owned(),
            directory: directory.to_owned(),
            memory: 1024,
            processors: 2,
            restarts: true,
            boot: Boot::Disk,
            disks: Vec::new(),
            nics: Vec::new(),
            last: Last::Nothing,
            more: Vec::new(),
        }
    }

    /// Memory in MiB.
    pub fn memory(mut self, mebibytes: u32) -> Self {
        self.memory = mebibytes;
        self
    }

    /// Number of processors.
    pub fn processors(mut self, count: u32) -> Self {
        self.processors = count;
        self
    }

    /// A restart of the guest ends the machine, so that [`Running::wait_exit`] sees it.
    pub fn exit_on_restart(mut self) -> Self {
        self.restarts = false;
        self
    }

    /// Where it boots from.
    pub fn boot(mut self, boot: Boot) -> Self {
        self.boot = boot;
        self
    }

    /// Adds a disk: a qcow2 image if its name ends so, a raw one otherwise.
    pub fn disk(mut self, path: &Path, bus: Bus) -> Self {
        self.disks.push(Disk { path: path.to_owned(), bus, slot: None, serial: None, options: String::new() });
        self.last = Last::Disk;
        self
    }

    /// The serial number of the disk added last; without it disks have `lab0`, `lab1`, ….
    pub fn serial(mut self, serial: &str) -> Self {
        if let Some(disk) = self.disks.last_mut() {
            disk.serial = Some(serial.to_owned());
        }
        self
    }

    /// A property of the disk added last, as QEMU has it: `rotation_rate=1`, `bootindex=0`.
    pub fn property(mut self, property: &str) -> Self {
        if let Some(disk) = self.disks.last_mut() {
            disk.options.push(',');
            disk.options.push_str(property);
        }
        self
    }

    /// Adds a network card with QEMU's iPXE in its ROM.
    pub fn nic(mut self, tap: &Tap, mac: &str, model: Model) -> Self {
        self.nics.push(Nic { tap: tap.clone(), mac: mac.to_owned(), model, rom: Rom::Ipxe, slot: None });
        self.last = Last::Nic;
        self
    }

    /// What is in the ROM of the card added last.
    pub fn rom(mut self, rom: Rom) -> Self {
        if let Some(nic) = self.nics.last_mut() {
            nic.rom = rom;
        }
        self
    }

    /// The PCI slot of the device added last (3 to 31); it decides the name of a card in the
    /// guest: slot 3 is `ens3`. Without it disks have 8, 9, … and cards 16, 17, ….
    pub fn slot(mut self, slot: u8) -> Self {
        match self.last {
            Last::Nothing => {}
            Last::Disk => self.disks.iter_mut().last().into_iter().for_each(|disk| disk.slot = Some(slot)),
            Last::Nic => self.nics.iter_mut().last().into_iter().for_each(|nic| nic.slot = Some(slot)),
        }
        self
    }

    /// More arguments for QEMU, as they stand.
    pub fn more(mut self, arguments: &[&str]) -> Self {
        self.more.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// The file that takes what the guest writes to its serial port.
    pub fn serial_log(&self) -> PathBuf {
        self.directory.join(format!("{}.serial", self.name))
    }

    fn arguments(&self) -> Vec<String> {
        let kvm = std::env::var_os("SYSTEMIMAGER_LAB_KVM").is_some_and(|value| value == "1");
        let (accel, cpu) = if kvm { ("kvm", "host") } else { ("tcg,thread=multi", EMULATED) };
        let mut arguments: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
        add(&["-name", &self.name, "-machine", "pc", "-accel", accel, "-cpu", cpu]);
        add(&["-smp", &self.processors.to_string(), "-m", &self.memory.to_string()]);
        add(&["-nodefaults", "-no-user-config", "-display", "none", "-vga", "std", "-monitor", "none"]);
        add(&["-chardev", &format!("file,id=serial0,path={}", escaped(&self.serial_log()))]);
        add(&["-serial", "chardev:serial0"]);
        if !self.restarts {
            add(&["-no-reboot"]);
        }
        match &self.boot {
            Boot::Disk => add(&["-boot", "order=c"]),
            Boot::Network => add(&["-boot", "order=nc"]),
            Boot::NetworkOnce => add(&["-boot", "once=n,order=c"]),
            Boot::Kernel { kernel, initrd, append } => {
                add(&["-kernel", &kernel.to_string_lossy(), "-append", append]);
                if let Some(initrd) = initrd {
                    add(&["-initrd", &initrd.to_string_lossy()]);
                }
            }
        }
        for (number, disk) in self.disks.iter().enumerate() {
            let format = if disk.path.extension().is_some_and(|end| end == "qcow2") { "qcow2" } else { "raw" };
            let file = escaped(&disk.path);
            // The host will not crash half-way through a test, so nothing needs to reach its disk.
            let drive = format!("if=none,id=disk{number},file={file},format={format},cache=unsafe,discard=unmap");
            add(&["-drive", &drive]);
            let slot = format!(",addr={:#x}", disk.slot.unwrap_or(DISK_SLOT + number as u8));
            let serial = disk.serial.clone().unwrap_or_else(|| format!("lab{number}"));
            let device = format!("drive=disk{number},serial={serial}{}", disk.options);
            match disk.bus {
                Bus::VirtioBlk => add(&["-device", &format!("virtio-blk-pci,{device}{slot}")]),
                Bus::Nvme => add(&["-device", &format!("nvme,{device}{slot}")]),
                Bus::Ide => add(&["-device", &format!("ide-hd,{device},bus=ide.{},unit={}", number / 2, number % 2)]),
                Bus::Ahci => {
                    add(&["-device", &format!("ich9-ahci,id=ahci{number}{slot}")]);
                    add(&["-device", &format!("ide-hd,{device},bus=ahci{number}.0")]);
                }
                Bus::VirtioScsi => {
                    add(&["-device", &format!("virtio-scsi-pci,id=scsi{number}{slot}")]);
                    add(&["-device", &format!("scsi-hd,{device},bus=scsi{number}.0")]);
                }
                Bus::Usb => {
                    add(&["-device", &format!("qemu-xhci,id=usb{number}{slot}")]);
                    add(&["-device", &format!("usb-storage,{device},removable=on,bus=usb{number}.0")]);
                }
            }
        }
        for (number, nic) in self.nics.iter().enumerate() {
            let model = match nic.model {
                Model::VirtioNet => "virtio-net-pci",
                Model::E1000 => "e1000",
                Model::E1000e => "e1000e",
            };
            let device = &nic.tap.device;
            add(&["-netdev", &format!("tap,id=net{number},ifname={device},script=no,downscript=no,vhost=off")]);
            let slot = format!(",addr={:#x}", nic.slot.unwrap_or(NIC_SLOT + number as u8));
            let rom = match &nic.rom {
                Rom::Ipxe => String::new(),
                Rom::None => ",romfile=".to_owned(),
                Rom::File(path) => format!(",romfile={}", escaped(path)),
            };
            add(&["-device", &format!("{model},netdev=net{number},mac={}{slot}{rom}", nic.mac)]);
        }
        arguments.extend(self.more.iter().cloned());
        arguments
    }

    /// Switches it on.
    pub fn spawn(&self) -> Result<Running> {
        let serial = self.serial_log();
        File::create(&serial).with_context(|| format!("making the serial log {}", serial.display()))?;
        let complaints = self.directory.join(format!("{}.qemu", self.name));
        let complaints_file =
            File::create(&complaints).with_context(|| format!("making the log {}", complaints.display()))?;
        // Each of these replaces itself by the next, so that the child is QEMU in the end.
        let mut command = run::program("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some(nic) = self.nics.first() {
            command.args(["ip", "netns", "exec", &nic.tap.namespace]);
        }
        command.arg("qemu-system-x86_64").args(self.arguments());
        command.stdout(Stdio::null()).stderr(complaints_file);
        let child = spawn_for_good(command).with_context(|| format!("starting the machine {}", self.name))?;
        Ok(Running { name: self.name.clone(), child, serial: SerialLog::open(&serial)?, complaints, ended: None })
    }
}

/// QEMU splits its arguments at commas; a comma in a file's name is written twice.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// The kernel kills the child when the *thread* that started it ends, so one thread that lives
/// as long as the process starts them all.
fn spawn_for_good(command: Command) -> Result<Child> {
    type Order = (Command, Sender<std::io::Result<Child>>);
    static STARTER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (orders, taken) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in taken {
                // Who gave the order waits for the answer, unless it panicked.
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (answer, child) = channel();
    let lost = "the thread that starts programs is gone";
    starter.lock().unwrap_or_else(std::sync::PoisonError::into_inner).send((command, answer)).ok().context(lost)?;
    Ok(child.recv().context(lost)??)
}

/// The serial log as it grows, line by line.
#[derive(Debug)]
struct SerialLog {
    path: PathBuf,
    file: File,
    /// Bytes that came after the last line end.
    partial: Vec<u8>,
    /// Lines that came and were not asked about yet.
    unread: std::collections::VecDeque<String>,
}

impl SerialLog {
    fn open(path: &Path) -> Result<SerialLog> {
        let file = File::open(path).with_context(|| format!("opening the serial log {}", path.display()))?;
        Ok(SerialLog { path: path.to_owned(), file, partial: Vec::new(), unread: Default::default() })
    }

    /// The next line that holds `pattern`; lines before it are passed over for good.
    fn next_with(&mut self, pattern: &str) -> Result<Option<String>> {
        self.file.read_to_end(&mut self.partial).with_context(|| format!("reading {}", self.path.display()))?;
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            self.unread.push_back(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        while let Some(line) = self.unread.pop_front() {
            if line.contains(pattern) {
                return Ok(Some(line));
            }
        }
        Ok(None)
    }

    /// All of it, also when the file's name is gone already: for a reader of a failure.
    fn everything(&self) -> String {
        let length = self.file.metadata().map_or(0, |metadata| metadata.len());
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        let read = self.file.read_at(&mut bytes, 0).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..read]).into_owned()
    }
}

/// A machine that was switched on. Dropped, it is switched off; if the test is failing then, the
/// end of its serial log is printed.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    serial: SerialLog,
    complaints: PathBuf,
    ended: Option<ExitStatus>,
}

impl Running {
    /// QEMU's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn poll(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().with_context(|| format!("asking after the machine {}", self.name))?;
        }
        Ok(self.ended)
    }

    /// Waits for a complete line with `pattern` on the serial port, after the line that the last
    /// call found. A machine that ends without one is an error at once.
    pub fn wait_serial(&mut self, pattern: &str, limit: Duration) -> Result<String> {
        let what = format!("{pattern:?} on the serial port of {}", self.name);
        wait_until(limit, &what, || {
            // Asked before the log is read, or the last lines could be missed.
            let ended = self.poll()?;
            if let Some(line) = self.serial.next_with(pattern)? {
                return Ok(Some(line));
            }
            match ended {
                Some(status) => bail!("the machine {} ended ({status}){}", self.name, self.last_words()),
                None => Ok(None),
            }
        })
    }

    /// Waits until the machine has switched itself off.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<()> {
        let what = format!("the machine {} to switch itself off", self.name);
        let status = wait_until(limit, &what, || self.poll())?;
        if !status.success() {
            bail!("QEMU of {} failed ({status}){}", self.name, self.last_words());
        }
        Ok(())
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.poll()?.is_some())
    }

    /// Switches it off as pulling the plug does.
    pub fn kill(&mut self) -> Result<()> {
        if self.poll()?.is_none() {
            self.child.kill().with_context(|| format!("killing the machine {}", self.name))?;
            self.ended = Some(self.child.wait().with_context(|| format!("waiting for {} to end", self.name))?);
        }
        Ok(())
    }

    /// All that came over the serial port so far.
    pub fn serial(&self) -> String {
        self.serial.everything()
    }

    fn last_words(&self) -> String {
        let complaints = std::fs::read_to_string(&self.complaints).unwrap_or_default();
        format!(
            "; QEMU said:\n{}\nits serial port:\n{}",
            run::tail(&complaints, 10),
            run::tail(&self.serial.everything(), 20)
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("lab: {error:#}");
        }
        if std::thread::panicking() {
            let log = self.serial.everything();
            eprintln!("--- the last 60 lines of {}'s serial port:\n{}\n--- end", self.name, run::tail(&log, 60));
        }
    }
}
