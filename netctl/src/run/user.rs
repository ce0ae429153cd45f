//! Whom the command runs as: `--user`, looked up in the host's own databases before anything is made.

use std::ffi::{CString, OsString};
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

/// `USER[:GROUP]`, names or numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    user: String,
    group: Option<String>,
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        if user.is_empty() || group.is_some_and(str::is_empty) || text.contains('\0') {
            return Err(format!("{text:?} is no user: the form is USER or USER:GROUP, names or numbers"));
        }
        Ok(Self { user: user.to_owned(), group: group.map(str::to_owned) })
    }
}

/// Why there is no such user.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The database cannot be read.
    #[error("look up {what} {name:?}")]
    Lookup {
        /// User or group.
        what: &'static str,
        /// Its name.
        name: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Nobody has this name.
    #[error("there is no {what} {name:?} on this host: getent {database} lists them, and a number is taken as it is")]
    Unknown {
        /// User or group.
        what: &'static str,
        /// As typed.
        name: String,
        /// Where it was looked for.
        database: &'static str,
    },
    /// A number that has no entry, and so no group.
    #[error("user {uid} has no entry on this host, so its group is not known: --user {uid}:GROUP says it")]
    NoGroup {
        /// Its number.
        uid: Uid,
    },
}

/// Whom the command becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub uid: Uid,
    /// The first group.
    pub gid: Gid,
    /// All groups, the first among them.
    pub groups: Vec<Gid>,
    /// `HOME`, `USER`, `LOGNAME` and `SHELL` of that user.
    pub variables: Vec<super::env::Variable>,
}

impl Wanted {
    /// Looks it up. Without a group it is in all groups that it is a member of; with one, in that one only.
    ///
    /// # Errors
    /// When the user or the group is not known.
    pub fn find(&self) -> Result<Identity, UserError> {
        let failed = |what, name: &str| {
            let name = name.to_owned();
            move |e: nix::Error| UserError::Lookup { what, name, source: e.into() }
        };
        let mut entry = User::from_name(&self.user).map_err(failed("user", &self.user))?;
        let uid = match (&entry, number(&self.user).map(Uid::from_raw)) {
            (Some(entry), _) => entry.uid,
            (None, Some(uid)) => {
                entry = User::from_uid(uid).map_err(failed("user", &self.user))?;
                uid
            }
            (None, None) => {
                return Err(UserError::Unknown { what: "user", name: self.user.clone(), database: "passwd" });
            }
        };
        let (gid, groups) = match (&self.group, &entry) {
            (Some(group), _) => {
                let gid = find_group(group).map_err(failed("group", group))?;
                let unknown = || UserError::Unknown { what: "group", name: group.clone(), database: "group" };
                let gid = gid.ok_or_else(unknown)?;
                (gid, vec![gid])
            }
            (None, Some(entry)) => {
                // A name from the database has no NUL; an empty one finds nothing beside the first group.
                let name = CString::new(entry.name.as_str()).unwrap_or_default();
                (entry.gid, getgrouplist(&name, entry.gid).map_err(failed("groups of user", &self.user))?)
            }
            (None, None) => return Err(UserError::NoGroup { uid }),
        };
        Ok(Identity { uid, gid, groups, variables: variables(entry) })
    }
}

/// A group's number. A name stands above a number, as with chown(1).
fn find_group(group: &str) -> nix::Result<Option<Gid>> {
    Ok(Group::from_name(group)?.map(|entry| entry.gid).or_else(|| number(group).map(Gid::from_raw)))
}

/// A number of a user or a group; the highest one means "none" to the kernel.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|n| *n != u32::MAX)
}

fn variables(entry: Option<User>) -> Vec<super::env::Variable> {
    let set = |name: &str, value: Option<OsString>| (OsString::from(name), value);
    match entry {
        Some(User { name, dir, shell, .. }) => vec![
            set("HOME", Some(dir.into())),
            set("USER", Some(name.clone().into())),
            set("LOGNAME", Some(name.into())),
            set("SHELL", Some(shell).filter(|s| *s != PathBuf::new()).map(PathBuf::into_os_string)),
        ],
        // Not those of whoever has called netctl.
        None => vec![set("HOME", Some("/".into())), set("USER", None), set("LOGNAME", None), set("SHELL", None)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str) -> Result<Identity, String> {
        text.parse::<Wanted>()?.find().map_err(|e| crate::error::chain(&e))
    }

    #[test]
    fn a_user_has_its_own_groups_and_home() {
        let root = find("root").unwrap();
        assert_eq!((root.uid.as_raw(), root.gid.as_raw()), (0, 0));
        assert!(root.groups.contains(&Gid::from_raw(0)));
        assert!(root.variables.contains(&("USER".into(), Some("root".into()))), "{:?}", root.variables);
        assert_eq!(find("0").unwrap(), root);
    }

    #[test]
    fn numbers_need_no_entry_but_then_a_group() {
        let found = find("3999999999:4000000000").unwrap();
        assert_eq!((found.uid.as_raw(), found.gid.as_raw()), (3_999_999_999, 4_000_000_000));
        assert_eq!(found.groups, [Gid::from_raw(4_000_000_000)]);
        assert!(found.variables.contains(&("HOME".into(), Some("/".into()))));
        let err = find("3999999999").unwrap_err();
        assert_eq!(err, "user 3999999999 has no entry on this host, so its group is not known: --user 3999999999:GROUP says it");
    }

    #[test]
    fn a_group_that_is_given_is_the_only_one() {
        let found = find("root:root").unwrap();
        assert_eq!(found.groups, [Gid::from_raw(0)]);
    }

    #[test]
    fn what_is_not_known_is_named() {
        assert!(find("no-such-user-xyz").unwrap_err().starts_with("there is no user \"no-such-user-xyz\" on this host"));
        assert!(find("root:no-such-group-xyz").unwrap_err().starts_with("there is no group \"no-such-group-xyz\""));
        // (uid_t)-1 would leave the command root.
        assert!(find("4294967295:0").unwrap_err().starts_with("there is no user"));
        for text in ["", ":x", "x:"] {
            assert!(find(text).unwrap_err().contains("the form is USER or USER:GROUP"), "{text}");
        }
    }
}
