//! What makeautoinstalldiskette and makeautoinstallcd share: what a medium holds, judged before anything is made.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use systemimager_engine::boot::media::{Kind, Medium};
use systemimager_engine::boot::{INITRD, KERNEL};
use systemimager_engine::local_cfg;
use systemimager_initrd::pack;

use crate::context::{Context, note};

/// What the medium says of server and machine.
#[derive(Debug, clap::Args)]
pub struct MediumArgs {
    /// Where the image server is: an address or a name (a local.cfg says it else, or the DHCP server is asked)
    #[arg(long, value_name = "ADDRESS")]
    server: Option<String>,
    /// Put this file onto the medium as its local.cfg: what one machine is to use
    #[arg(long, value_name = "FILE")]
    local_cfg: Option<PathBuf>,
    /// More words for the miniature system's kernel, after those of [boot] append
    #[arg(long, value_name = "WORDS", default_value = "", hide_default_value = true)]
    append: String,
    /// Also where the initrd has the drivers of another kernel: for a kernel that has its drivers built in
    #[arg(long)]
    any_kernel: bool,
}

/// What was made.
#[derive(Debug, Serialize)]
pub struct Made {
    /// The file or the device.
    pub medium: PathBuf,
    /// How much of it was written, bytes.
    pub bytes: u64,
    /// The kernel's release.
    pub kernel: String,
    /// Its mark.
    pub id: String,
}

impl MediumArgs {
    /// The medium, and the release of its kernel.
    ///
    /// # Errors
    /// There is no kernel or initrd, they do not fit together, or something that is given is wrong.
    pub fn medium(&self, context: &Context, kind: Kind) -> Result<(Medium, String)> {
        let tftp = context.config.tftp();
        let (kernel, initrd) = (tftp.join(KERNEL), tftp.join(INITRD));
        for file in [&kernel, &initrd] {
            if !file.is_file() {
                bail!("{} is not there; make it with `systemimager mkinitrd`", file.display());
            }
        }
        let release = pack::kernel::release_of(&kernel)?;
        self.fit(&kernel, &initrd, &release)?;
        let server = self.server.as_deref().map(server).transpose()?;
        if let Some(odd) = self.append.chars().find(|it| it.is_control() || !it.is_ascii()) {
            bail!("--append has {odd:?}; a kernel command line is one line of ASCII");
        }
        let settings = &context.config.settings;
        let medium = Medium {
            kind,
            id: Medium::new_id(),
            local_cfg: self.local_cfg.as_deref().map(|file| read_local_cfg(file, server.is_some())).transpose()?,
            server,
            http_port: settings.server.http_port,
            append: format!("{} {}", settings.boot.append, self.append).trim().to_owned(),
            kernel,
            initrd,
        };
        Ok((medium, release))
    }

    fn fit(&self, kernel: &Path, initrd: &Path, release: &str) -> Result<()> {
        let Some(releases) = pack::fit::releases(initrd)? else {
            note(format_args!(
                "{} is compressed in a way that is not read here; whether it has the drivers of {} is not checked",
                initrd.display(),
                kernel.display()
            ));
            return Ok(());
        };
        if releases.contains(release) || self.any_kernel {
            return Ok(());
        }
        let has = match releases.len() {
            0 => "no drivers at all".to_owned(),
            _ => format!("the drivers of {}", releases.into_iter().collect::<Vec<_>>().join(", ")),
        };
        bail!(
            "{} is the kernel {release}, and {} has {has}; make both for that kernel (systemimager mkinitrd --kernel FILE \
             --modules DIR), or give --any-kernel if it has its drivers built in",
            kernel.display(),
            initrd.display()
        )
    }
}

fn server(text: &str) -> Result<String> {
    local_cfg::server(text)
        .map_err(|_| anyhow::anyhow!("--server: {text:?} is neither an IPv4 address nor a host name"))
}

/// A local.cfg, as it is; what is wrong in it is told here, where somebody can correct it.
fn read_local_cfg(file: &Path, has_server: bool) -> Result<Vec<u8>> {
    let shown = file.display();
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).with_context(|| format!("opening --local-cfg {shown}"))?;
    opened
        .take(local_cfg::LARGEST as u64 + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("reading --local-cfg {shown}"))?;
    let (cfg, warnings) = match local_cfg::parse(&bytes) {
        Ok(read) => read,
        Err(problems) => bail!("{shown} is wrong:\n{problems}"),
    };
    for warning in warnings {
        note(format_args!("{shown}: {warning}"));
    }
    if cfg.address.is_some() && cfg.server.is_none() && !has_server {
        bail!(
            "{shown} gives an address, so the machine asks no DHCP server, and nothing names the image server; add \
             IMAGESERVER=ADDRESS there, or give --server"
        );
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers() {
        for (text, expected) in [
            ("10.0.0.1", Ok("10.0.0.1")),
            ("images.example.org", Ok("images.example.org")),
            ("a b", Err(())),
            ("10.0.0.1\nHOSTNAME=x", Err(())),
            ("10.0.0.1:80", Err(())),
            ("$(x)", Err(())),
            ("", Err(())),
        ] {
            assert_eq!(server(text).as_deref().map_err(drop), expected, "{text:?}");
        }
    }

    #[test]
    fn a_local_cfg_is_judged_here() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("local.cfg");
        for (name, text, has_server, expected) in [
            ("good", "HOSTNAME=www1\n", false, Ok(())),
            ("wrong", "\nHOSTNAME=a_b\n", false, Err("is wrong:\nline 2: HOSTNAME: ")),
            ("no server", "IPADDR=10.0.0.11/24\n", false, Err("nothing names the image server; add")),
            ("server elsewhere", "IPADDR=10.0.0.11/24\n", true, Ok(())),
            ("server in it", "IPADDR=10.0.0.11/24\nIMAGESERVER=10.0.0.1\n", false, Ok(())),
        ] {
            std::fs::write(&file, text).unwrap();
            match (read_local_cfg(&file, has_server), expected) {
                (Ok(bytes), Ok(())) => assert_eq!(bytes, text.as_bytes(), "{name}"),
                (Err(error), Err(says)) => assert!(format!("{error:#}").contains(says), "{name}: {error:#}"),
                (got, _) => panic!("{name}: {got:?}"),
            }
        }
        assert!(read_local_cfg(&dir.path().join("absent"), true).is_err());
    }
}
