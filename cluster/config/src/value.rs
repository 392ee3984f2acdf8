use core::net::IpAddr;

use crate::reader::Item;

impl Item<'_> {
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        let mend = "write an IPv4 or IPv6 address in quotes: \"203.0.113.10\", \"2001:db8::10\"";
        let text = self.text(mend)?;
        let ip = text.parse();
        if ip.is_err() {
            self.mistake(format!("`{text}` is no IP address"), mend);
        }
        ip.ok()
    }

    /// A name of a member or service, or a path: anything but nothing.
    pub(crate) fn filled(&self, mend: &str) -> Option<String> {
        let text = self.text(mend)?;
        if text.is_empty() {
            self.mistake("it is empty", mend);
            return None;
        }
        Some(text.to_owned())
    }

    /// A kernel interface's name (`IFNAMSIZ` is 16 with the final zero).
    pub(crate) fn interface(&self) -> Option<String> {
        let mend = "write the name that `ip link` shows: \"eth0\"";
        let text = self.filled(mend)?;
        if text.len() > 15 || text.contains(['/', ' ', ':']) {
            self.mistake(format!("`{text}` is no name of an interface"), mend);
            return None;
        }
        Some(text)
    }
}
