//! Whose identity a container's process has.
//!
//! In: CRI's security context, the image's `user[:group]`, the text of the image's passwd and group files. Out: numbers
//! and the home directory. A name that the files do not know is an error; a number need not be in them.

use pintle_cri_api::v1::{LinuxContainerSecurityContext, SupplementalGroupsPolicy};

use super::Error;

/// The files of the image that name users and groups; empty where there are none.
#[derive(Debug, Clone, Default)]
pub struct NameFiles {
    /// `/etc/passwd`.
    pub passwd: String,
    /// `/etc/group`.
    pub group: String,
}

/// A container's identity in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// The identity: CRI's user, else CRI's user name, else the image's user, else root.
///
/// # Errors
/// When a name is unknown, a group is asked for without a user, or a user by number and by name.
pub fn resolve(
    wanted: &LinuxContainerSecurityContext,
    image: &str,
    files: &NameFiles,
) -> Result<ResolvedUser, Error> {
    let has_user = wanted.run_as_user.is_some() || !wanted.run_as_username.is_empty();
    if wanted.run_as_group.is_some() && !has_user {
        return Err(Error::invalid("run_as_group", "needs run_as_user or run_as_username"));
    }
    if wanted.run_as_user.is_some() && !wanted.run_as_username.is_empty() {
        return Err(Error::invalid("run_as_username", "excludes run_as_user"));
    }
    let (user, image_group) = match (&wanted.run_as_user, wanted.run_as_username.as_str()) {
        (Some(uid), _) => (uid.value.to_string(), None),
        (None, name) if !name.is_empty() => (name.to_owned(), None),
        (None, _) => split_image_user(image),
    };
    let (uid, entry) = find_user(&user, &files.passwd)?;
    let mut gid = entry.as_ref().map_or(0, |e| e.gid);
    if let Some(group) = image_group {
        gid = find_group(group, &files.group)?;
    }
    if let Some(group) = &wanted.run_as_group {
        gid = number("run_as_group", group.value)?;
    }
    let mut groups = supplementary(wanted, entry.as_ref(), &files.group)?;
    if groups.is_empty() || !groups.contains(&gid) {
        groups.insert(0, gid);
    }
    let home = entry.map(|e| e.home).filter(|home| !home.is_empty()).unwrap_or("/").to_owned();
    Ok(ResolvedUser { uid, gid, groups, home })
}

/// The groups asked for and, unless the policy is strict, those that the image's files give the user.
fn supplementary(
    wanted: &LinuxContainerSecurityContext,
    entry: Option<&Passwd<'_>>,
    group_file: &str,
) -> Result<Vec<u32>, Error> {
    let mut groups = Vec::new();
    for group in &wanted.supplemental_groups {
        groups.push(number("supplemental_groups", *group)?);
    }
    if wanted.supplemental_groups_policy != SupplementalGroupsPolicy::Strict as i32 {
        let member = |members: &str| entry.is_some_and(|e| members.split(',').any(|name| name == e.name));
        for line in group_file.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            if let [_, _, gid, members, ..] = fields[..]
                && member(members)
                && let Ok(gid) = gid.parse()
            {
                groups.push(gid);
            }
        }
    }
    let mut seen = std::collections::HashSet::new();
    groups.retain(|gid| seen.insert(*gid));
    Ok(groups)
}

fn split_image_user(image: &str) -> (String, Option<&str>) {
    match image.split_once(':') {
        Some((user, group)) if !group.is_empty() => (user_or_root(user), Some(group)),
        Some((user, _)) => (user_or_root(user), None),
        None => (user_or_root(image), None),
    }
}

fn user_or_root(user: &str) -> String {
    if user.is_empty() { "0".to_owned() } else { user.to_owned() }
}

fn find_user<'a>(user: &str, passwd: &'a str) -> Result<(u32, Option<Passwd<'a>>), Error> {
    let entries = || passwd.lines().filter_map(parse_passwd);
    if let Ok(uid) = user.parse::<i64>() {
        let uid = number("run_as_user", uid)?;
        return Ok((uid, entries().find(|entry| entry.uid == uid)));
    }
    let entry = entries().find(|entry| entry.name == user);
    let entry = entry
        .ok_or_else(|| Error::invalid("user", format!("the image's /etc/passwd has no user {user:?}")))?;
    Ok((entry.uid, Some(entry)))
}

fn find_group(group: &str, file: &str) -> Result<u32, Error> {
    if let Ok(gid) = group.parse::<i64>() {
        return number("group", gid);
    }
    let mut lines = file.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = lines.find(|fields| fields.first() == Some(&group));
    found
        .and_then(|fields| fields.get(2)?.parse().ok())
        .ok_or_else(|| Error::invalid("group", format!("the image's /etc/group has no group {group:?}")))
}

fn parse_passwd(line: &str) -> Option<Passwd<'_>> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
    Some(Passwd { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
}

fn number(field: &'static str, value: i64) -> Result<u32, Error> {
    // -1 means "leave unchanged" to the kernel.
    u32::try_from(value)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| Error::invalid(field, format!("{value} is no id")))
}

#[cfg(test)]
mod tests {
    use pintle_cri_api::v1::Int64Value;

    use super::*;

    fn files() -> NameFiles {
        NameFiles {
            passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:Web:/var/www:/bin/sh\nbroken\n".to_owned(),
            group: "root:x:0:\nwww:x:34:\nlog:x:40:other,web\nbad:x\n".to_owned(),
        }
    }

    fn resolved(wanted: &LinuxContainerSecurityContext, image: &str) -> Result<ResolvedUser, Error> {
        resolve(wanted, image, &files())
    }

    fn numbers(user: &ResolvedUser) -> (u32, u32, Vec<u32>) {
        (user.uid, user.gid, user.groups.clone())
    }

    #[test]
    fn the_images_user_counts_when_the_container_names_none() {
        let none = LinuxContainerSecurityContext::default();
        for (image, expected) in [
            ("", (0, 0, vec![0])),
            ("web", (33, 34, vec![34, 40])),
            ("33", (33, 34, vec![34, 40])),
            ("web:log", (33, 40, vec![40])),
            ("1000", (1000, 0, vec![0])),
            ("1000:1000", (1000, 1000, vec![1000])),
        ] {
            assert_eq!(numbers(&resolved(&none, image).unwrap()), expected, "{image}");
        }
        assert!(resolved(&none, "nobody").is_err());
        assert!(resolved(&none, "web:nogroup").is_err());
    }

    #[test]
    fn the_containers_user_goes_before_the_images() {
        let wanted = LinuxContainerSecurityContext {
            run_as_user: Some(Int64Value { value: 7 }),
            run_as_group: Some(Int64Value { value: 8 }),
            supplemental_groups: vec![9, 8],
            ..Default::default()
        };
        assert_eq!(numbers(&resolved(&wanted, "web").unwrap()), (7, 8, vec![9, 8]));
    }

    #[test]
    fn a_strict_policy_keeps_the_images_groups_out() {
        let strict = LinuxContainerSecurityContext {
            run_as_username: "web".to_owned(),
            supplemental_groups_policy: SupplementalGroupsPolicy::Strict as i32,
            ..Default::default()
        };
        assert_eq!(numbers(&resolved(&strict, "").unwrap()), (33, 34, vec![34]));
        assert_eq!(resolved(&strict, "").unwrap().home, "/var/www");
    }

    #[test]
    fn a_group_without_a_user_a_user_twice_and_negative_ids_are_refused() {
        let group = LinuxContainerSecurityContext {
            run_as_group: Some(Int64Value { value: 8 }),
            ..Default::default()
        };
        assert!(resolved(&group, "").is_err());
        let both = LinuxContainerSecurityContext {
            run_as_user: Some(Int64Value { value: 33 }),
            run_as_username: "web".to_owned(),
            ..Default::default()
        };
        assert!(resolved(&both, "").is_err());
        let negative = LinuxContainerSecurityContext {
            run_as_user: Some(Int64Value { value: -1 }),
            ..Default::default()
        };
        assert!(resolved(&negative, "").is_err());
    }
}
