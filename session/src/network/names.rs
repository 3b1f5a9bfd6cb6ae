//! Which names DNS gave for an address, for rules by name and for events. Bounded: the address that was asked for least recently goes.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::limits::{LEARNED_ADDRESSES, NAMES_PER_ADDRESS};

/// Names learned from DNS replies.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Domains that the target's resolver adds to short names.
    search: Vec<String>,
    learned: Mutex<Learned>,
}

#[derive(Debug, Default)]
struct Learned {
    clock: u64,
    entries: HashMap<IpAddr, Entry>,
    by_age: BTreeMap<u64, IpAddr>,
}

#[derive(Debug)]
struct Entry {
    age: u64,
    /// Newest first.
    names: Vec<String>,
}

impl Names {
    /// Nothing is known yet but the search domains.
    pub(super) fn new(search: &[String]) -> Self {
        Self {
            search: search.iter().map(|domain| domain.to_ascii_lowercase()).collect(),
            learned: Mutex::default(),
        }
    }

    /// A name and its short forms: a program that asks for `db` makes the resolver ask for `db.prod.svc.cluster.local`, and a rule
    /// names it as the program does.
    #[must_use]
    pub(super) fn forms(&self, name: &str) -> Vec<String> {
        let short =
            self.search.iter().filter_map(|domain| name.strip_suffix(domain.as_str())?.strip_suffix('.'));
        std::iter::once(name).chain(short.filter(|short| !short.is_empty())).map(str::to_owned).collect()
    }

    /// A reply said that `name` has these addresses.
    pub(super) fn learn(&self, name: &str, addresses: &[IpAddr]) {
        let mut learned = self.lock();
        for address in addresses {
            learned.insert(address.to_canonical(), name);
        }
    }

    /// Names of an address in all their forms, for rules.
    #[must_use]
    pub(super) fn forms_of(&self, address: IpAddr) -> Vec<String> {
        self.of(address).iter().flat_map(|name| self.forms(name)).collect()
    }

    /// Names of an address as they were asked for, newest first.
    #[must_use]
    pub(super) fn of(&self, address: IpAddr) -> Vec<String> {
        self.lock().entries.get(&address.to_canonical()).map(|entry| entry.names.clone()).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Learned> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Learned {
    fn insert(&mut self, address: IpAddr, name: &str) {
        self.clock += 1;
        let age = self.clock;
        let entry = self.entries.entry(address).or_insert_with(|| Entry { age, names: Vec::new() });
        self.by_age.remove(&entry.age);
        self.by_age.insert(age, address);
        entry.age = age;
        entry.names.retain(|known| known != name);
        entry.names.insert(0, name.to_owned());
        entry.names.truncate(NAMES_PER_ADDRESS);
        if self.entries.len() > LEARNED_ADDRESSES
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.entries.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_matches_without_each_search_domain() {
        let names = Names::new(&["prod.svc.cluster.local".to_owned(), "svc.cluster.local".to_owned()]);
        assert_eq!(names.forms("db.prod.svc.cluster.local"), ["db.prod.svc.cluster.local", "db", "db.prod"]);
        assert_eq!(names.forms("prod.svc.cluster.local"), ["prod.svc.cluster.local", "prod"]);
        assert_eq!(names.forms("xsvc.cluster.local"), ["xsvc.cluster.local"]);
    }

    #[test]
    fn the_newest_name_comes_first_and_the_oldest_address_goes() {
        let names = Names::default();
        let first = IpAddr::from([10, 0, 0, 1]);
        names.learn("a", &[first]);
        names.learn("b", &[first]);
        names.learn("a", &[IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0x0a00, 1])]);
        assert_eq!(names.of(first), ["a", "b"]);
        for number in 0..u32::try_from(LEARNED_ADDRESSES).unwrap() {
            names.learn("x", &[IpAddr::from((0x0b00_0000 + number).to_be_bytes())]);
        }
        assert!(names.of(first).is_empty());
        assert_eq!(names.lock().entries.len(), LEARNED_ADDRESSES);
        assert_eq!(names.lock().by_age.len(), LEARNED_ADDRESSES);
        for number in 0..50 {
            names.learn(&number.to_string(), &[first]);
        }
        assert_eq!(names.of(first).len(), NAMES_PER_ADDRESS);
    }
}
