//! Pure: the names of the parts of a link whose shards several workers share.
//!
//! To a store a part is a link of its own, under a name that no link has.

use std::fmt;

/// Which part of which division of a link: `LINK/EPOCH.NUMBER`.
///
/// The epoch is that of the link's owner that divided it. An owner divides a link once at most, so no two divisions have a
/// part of the same name, whatever came of the first: who comes late with a name of long ago finds nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartName {
    /// The link.
    pub link: String,
    /// The epoch of the owner that divided it.
    pub epoch: u64,
    /// Counts from 0.
    pub number: u32,
}

impl PartName {
    /// The name of a part; `None`: it is the name of a link. Those hold no slash.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (link, part) = name.rsplit_once('/')?;
        let (epoch, number) = part.split_once('.')?;
        let parsed = Self { link: link.to_owned(), epoch: epoch.parse().ok()?, number: number.parse().ok()? };
        (parsed.to_string() == name).then_some(parsed)
    }
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{}", self.link, self.epoch, self.number)
    }
}

/// Whether this is the name of a part, not of a link.
pub(super) fn is_part(name: &str) -> bool {
    PartName::parse(name).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_found_again_by_its_name_and_a_link_is_none() {
        let part = PartName { link: "shop.PROD_orders".into(), epoch: 17, number: 3 };
        assert_eq!(part.to_string(), "shop.PROD_orders/17.3");
        assert_eq!(PartName::parse("shop.PROD_orders/17.3"), Some(part));
        for link in ["orders", "shop.17.3", "orders/17", "orders/017.3", "orders/+1.3", "orders/17.x", "orders/17.3.1"]
        {
            assert_eq!(PartName::parse(link), None, "{link}");
        }
    }
}
