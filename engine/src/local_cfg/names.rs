//! The variables of `local.cfg`, those of classic SystemImager among them that have no meaning here, and which name
//! was probably meant.

macro_rules! variables {
    ($($variant:ident $name:literal,)*) => {
        /// A variable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Variable {
            $($variant,)*
        }

        impl Variable {
            pub const ALL: &'static [Variable] = &[$(Variable::$variant,)*];

            /// How it is written.
            pub fn name(self) -> &'static str {
                match self { $(Variable::$variant => $name,)* }
            }
        }
    };
}

variables! {
    Hostname "HOSTNAME",
    Domainname "DOMAINNAME",
    Device "DEVICE",
    Ipaddr "IPADDR",
    Netmask "NETMASK",
    Network "NETWORK",
    Broadcast "BROADCAST",
    Gateway "GATEWAY",
    Gatewaydev "GATEWAYDEV",
    Nameservers "NAMESERVERS",
    Imageserver "IMAGESERVER",
    ImageserverPort "IMAGESERVER_PORT",
    Imagename "IMAGENAME",
}

/// Variables of classic SystemImager whose work is done elsewhere: each with where.
const ELSEWHERE: [(&str, &str); 9] = [
    ("GROUPNAMES", "addclients gives hosts their images"),
    ("GROUP_OVERRIDES", "addclients gives hosts their images"),
    ("LOG_SERVER", "the image server gets the log"),
    ("LOG_SERVER_PORT", "the image server gets the log"),
    ("MONITOR_SERVER", "the image server gets the reports"),
    ("MONITOR_PORT", "the image server gets the reports"),
    ("SSH_DOWNLOAD_URL", "the master file names the transports"),
    ("SSH_USER", "the master file names the transports"),
    ("FLAMETHROWER_DIRECTORY_PORTBASE", "the master file names the transports"),
];

/// How many letters a name may be off and still be meant.
const MOST_OFF: usize = 3;

/// The variable of this name.
///
/// # Errors
/// There is none: what to say of it.
pub fn known(name: &str) -> Result<Variable, String> {
    if let Some(variable) = Variable::ALL.iter().find(|variable| variable.name() == name) {
        return Ok(*variable);
    }
    if let Some((_, why)) = ELSEWHERE.iter().find(|(other, _)| *other == name) {
        return Err(format!("{name} has no meaning here: {why}; the line is passed over"));
    }
    let upper = name.to_ascii_uppercase();
    let near = Variable::ALL.iter().map(|it| (distance(&upper, it.name()), it.name())).min();
    let shown: String = name.chars().take(40).collect();
    Err(match near.filter(|(off, near)| *off <= MOST_OFF.min(near.len() / 2)) {
        Some((_, near)) => format!("there is no variable {shown}; is {near} meant? The line is passed over"),
        None => {
            let all: Vec<&str> = Variable::ALL.iter().map(|it| it.name()).collect();
            format!("there is no variable {shown}; the line is passed over (there is {})", all.join(", "))
        }
    })
}

/// Letters to add, take out or exchange to make one of the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    // Far longer than any name: far off, whatever it holds.
    if one.len() > 64 {
        return one.len();
    }
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut before = i;
        let mut left = i + 1;
        for (at, b) in row.iter_mut().zip(std::iter::once(None).chain(other.bytes().map(Some))) {
            let Some(b) = b else {
                *at = left;
                continue;
            };
            let here = (before + usize::from(a != b)).min(left + 1).min(*at + 1);
            before = std::mem::replace(at, here);
            left = here;
        }
    }
    row.last().copied().unwrap_or(one.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_off() {
        for (one, other, expected) in [
            ("HOSTNAME", "HOSTNAME", 0),
            ("HOSTNAM", "HOSTNAME", 1),
            ("HSOTNAME", "HOSTNAME", 2),
            ("", "IPADDR", 6),
            ("IPADDR", "", 6),
            ("IP_ADDR", "IPADDR", 1),
        ] {
            assert_eq!(distance(one, other), expected, "{one} {other}");
        }
    }
}
