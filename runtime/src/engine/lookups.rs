//! Looks up on the node what a container's configuration refers to, and writes its bundle.
//!
//! In: CRI's configuration, the mounted root. Out: the OCI configuration on disk. Names of users are read inside the
//! root, mount points made there, the sources of mounts and devices checked on the node. What is done with the values is
//! decided in `spec`, which is pure.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Component, Path, PathBuf},
};

use pintle_cri_api::v1::{ContainerConfig, Device, Mount, MountPropagation};

use super::{
    cdi, container,
    error::{Error, Result},
    handlers::External,
    records::{NamespaceMode, SandboxConfig, UserRecord},
    rootfs::{self, Kind},
    sandbox_files,
    seccomp::Filters,
    state::Container,
};
use crate::spec::{
    HostFacts,
    cdi::Injection,
    container::{Input, SandboxFiles, spec},
    devices::{self, HostDevice},
    mounts::{self, ResolvedMount},
    namespaces::PidNamespace,
    process::{self, ImageProcess},
    seccomp,
    user::{self, NameFiles, ResolvedUser},
    user_namespace::{self, IdMappings},
};

/// The most bytes of an image's passwd or group file.
const MAX_NAME_FILE: u64 = 1024 * 1024;
/// The most device nodes one container gets.
const MAX_DEVICES: usize = 4096;
/// What every container's `/dev` has of its own.
const OWN_DEVICES: [&str; 12] =
    ["pts", "shm", "mqueue", "fd", "console", "ptmx", "null", "zero", "full", "tty", "random", "urandom"];
/// Mount points that the container's own file systems hide: nothing need be made below them in the root.
const HIDDEN: [&str; 3] = ["/dev", "/proc", "/sys"];

/// What is looked up for.
#[derive(Debug)]
pub struct Request<'a> {
    /// CRI's configuration, with what devices bring and directories in the place of images.
    pub config: &'a ContainerConfig,
    /// What else devices bring.
    pub injection: Option<&'a Injection>,
    /// The image's.
    pub image: &'a ImageProcess,
    /// The container, with its record.
    pub container: &'a Container,
    /// Its root, mounted.
    pub rootfs: &'a Path,
    /// Whose pid namespace it lives in.
    pub pid: PidNamespace,
    /// What the node can do.
    pub host: &'a HostFacts,
    /// The seccomp filters.
    pub filters: &'a Filters,
    /// The external runtime that makes it, if one does.
    pub external: Option<&'a External>,
}

/// What was found out and is told later.
#[derive(Debug)]
pub struct Prepared {
    /// The identity of the container's process.
    pub user: UserRecord,
    /// Whether it has a seccomp filter.
    pub seccomp: bool,
}

/// Looks everything up and writes the bundle.
///
/// # Errors
/// When something that is referred to is not there.
pub fn prepare(request: &Request<'_>) -> Result<Prepared> {
    let Request { config, image, container, rootfs, .. } = request;
    let security = container::security(config).unwrap_or_default();
    let sandbox = container.sandbox.record();
    if security.privileged && !sandbox.config.privileged {
        let text = "a privileged container needs a privileged sandbox".to_owned();
        return Err(Error::InvalidArgument(text));
    }
    let mut user = user::resolve(&security, &image.user, &name_files(rootfs)?)?;
    let gids = request.injection.map_or(&[][..], |injection| injection.gids.as_slice());
    let more: Vec<u32> = gids.iter().copied().filter(|gid| !user.groups.contains(gid)).collect();
    user.groups.extend(more);
    HIDDEN.iter().try_for_each(|name| rootfs::check_mount_point(rootfs, name))?;
    rootfs::ensure(rootfs, &process::cwd(config, image)?, Kind::Directory)?;
    let mut mounts = resolve_mounts(rootfs, &config.mounts, sandbox.config.users.as_ref())?;
    let mut devices = Vec::new();
    if security.privileged {
        add_devices_below(Path::new("/dev"), "/dev", "rwm", &mut devices)?;
    }
    for device in &config.devices {
        add_device(device, &mut devices)?;
    }
    for device in request.injection.map_or(Ok(Vec::new()), |injection| cdi::nodes(injection, &user))? {
        push_device(device, &mut devices)?;
    }
    for device in devices.iter().filter(|device| !devices::is_below_dev(device)) {
        mounts.push(bound_device(rootfs, device)?);
    }
    let dir = &container.sandbox.dir;
    let shm = sandbox_files::shm_source(dir, &sandbox.config);
    if let Some(external) = request.external {
        check_mounts(external, &mounts)?;
    }
    let mut spec = spec(&Input {
        config,
        image,
        sandbox: &sandbox.config,
        infra_pid: sandbox.infra_pid.unwrap_or_default(),
        pid: request.pid,
        files: SandboxFiles {
            resolv_conf: &dir.join(sandbox_files::RESOLV_CONF),
            hostname: &dir.join(sandbox_files::HOSTNAME),
            hosts: node_hosts(&sandbox.config),
            shm: &shm,
        },
        rootfs,
        cgroup: &container.record().cgroup,
        user: &user,
        mounts: &mounts,
        devices: &devices,
        hooks: request.injection.map_or(&serde_json::Value::Null, |injection| &injection.hooks),
        host: request.host,
    })?;
    make_own_mount_points(rootfs, &spec)?;
    let profile = seccomp::of_container(&security)?;
    let seccomp = match request.external {
        None => request.filters.write(&profile, &spec, &container.dir)?,
        Some(_) => {
            // Such a runtime compiles and loads the profile by itself.
            let profile = request.filters.oci(&profile, &spec)?;
            if let Some(linux) = spec.linux_mut() {
                linux.set_seccomp(profile);
            }
            false
        }
    };
    sandbox_files::write_bundle(&container.dir, &spec)?;
    let ResolvedUser { uid, gid, groups, .. } = user;
    Ok(Prepared { user: UserRecord { uid, gid, groups }, seccomp })
}

/// A runtime that does not know the option would leave it out without a word.
fn check_mounts(external: &External, mounts: &[ResolvedMount]) -> Result<()> {
    match mounts.iter().find(|mount| mount.recursive_read_only) {
        Some(mount) if !external.facts.recursive_read_only => Err(Error::InvalidArgument(format!(
            "mounts: {}: recursive_read_only: the runtime of handler {:?} does not know it",
            mount.destination, external.handler
        ))),
        Some(_) | None => Ok(()),
    }
}

/// The node's `/etc/hosts`, for pods on the node's network.
fn node_hosts(config: &SandboxConfig) -> Option<&'static Path> {
    let hosts = Path::new("/etc/hosts");
    (config.network == NamespaceMode::Node && hosts.exists()).then_some(hosts)
}

fn name_files(root: &Path) -> Result<NameFiles> {
    Ok(NameFiles {
        passwd: rootfs::read(root, "/etc/passwd", MAX_NAME_FILE)?,
        group: rootfs::read(root, "/etc/group", MAX_NAME_FILE)?,
    })
}

/// The engine's own binds (`/etc/resolv.conf` and so on) and the kernel's file systems get their mount points inside
/// the root too, so that no link of the image leads them astray.
fn make_own_mount_points(root: &Path, spec: &oci_spec::runtime::Spec) -> Result<()> {
    for mount in spec.mounts().iter().flatten() {
        let path = mount.destination().to_string_lossy();
        if HIDDEN.iter().any(|hidden| path.starts_with(&format!("{hidden}/"))) {
            continue;
        }
        let bound = mount.typ().as_deref() == Some("bind");
        let file = bound && mount.source().as_ref().is_some_and(|source| !source.is_dir());
        let resolved = rootfs::ensure(root, &path, if file { Kind::File } else { Kind::Directory });
        // Below another mount it is made in that mount, by the library, when both are there.
        if resolved.is_err() && !is_below_a_mount(&path, spec) {
            resolved?;
        }
    }
    Ok(())
}

fn is_below_a_mount(path: &str, spec: &oci_spec::runtime::Spec) -> bool {
    let below = |other: &Path| Path::new(path) != other && Path::new(path).starts_with(other);
    spec.mounts().iter().flatten().any(|mount| below(mount.destination()))
}

fn resolve_mounts(root: &Path, wanted: &[Mount], users: Option<&IdMappings>) -> Result<Vec<ResolvedMount>> {
    let mut ordered: Vec<&Mount> = wanted.iter().collect();
    ordered.sort_by_key(|mount| mounts::depth(&mount.container_path));
    let mut resolved: Vec<ResolvedMount> = Vec::with_capacity(ordered.len());
    for mount in ordered {
        let propagation = mounts::check(mount)?;
        if Path::new(&mount.container_path).components().any(|part| part == Component::ParentDir) {
            return Err(Error::InvalidArgument(format!(
                "mount point {:?} is not a plain path",
                mount.container_path
            )));
        }
        let mapped = user_namespace::check_mount(&mount.uid_mappings, &mount.gid_mappings, users)?;
        if users.is_some() && propagation == MountPropagation::PropagationBidirectional {
            let text =
                "mounts.propagation: mounts cannot travel out of a pod with users of its own".to_owned();
            return Err(Error::InvalidArgument(text));
        }
        let source = source_of(mount)?;
        check_propagation(&source, propagation)?;
        let below =
            resolved.iter().any(|other| Path::new(&mount.container_path).starts_with(&other.destination));
        let hidden = HIDDEN.iter().any(|hidden| Path::new(&mount.container_path).starts_with(hidden));
        let destination = if below || hidden {
            mount.container_path.clone()
        } else {
            let kind = if source.is_dir() { Kind::Directory } else { Kind::File };
            rootfs::ensure(root, &mount.container_path, kind)?
        };
        mounts::check_destination(&destination, is_procfs(&source))?;
        resolved.push(ResolvedMount {
            source,
            destination,
            readonly: mount.readonly,
            recursive_read_only: mount.recursive_read_only,
            propagation,
            options: mount.mount_options.clone(),
            mapped,
        });
    }
    Ok(resolved)
}

/// A device outside `/dev`, where the library makes no nodes: the node's own is bound.
fn bound_device(root: &Path, device: &HostDevice) -> Result<ResolvedMount> {
    if device.host_path.as_os_str().is_empty() {
        let text = format!("device {:?}: there is none like it on the node to be bound", device.path);
        return Err(Error::InvalidArgument(text));
    }
    let destination = rootfs::ensure(root, &device.path, Kind::File)?;
    mounts::check_destination(&destination, false)?;
    Ok(ResolvedMount {
        source: device.host_path.clone(),
        destination,
        readonly: false,
        recursive_read_only: false,
        propagation: MountPropagation::PropagationPrivate,
        options: Vec::new(),
        mapped: false,
    })
}

fn is_procfs(source: &Path) -> bool {
    rustix::fs::statfs(source).is_ok_and(|found| found.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

/// The source, with links followed; a missing directory is made, as containerd does.
fn source_of(mount: &Mount) -> Result<PathBuf> {
    let path = Path::new(&mount.host_path);
    if !path.is_absolute() {
        return Err(Error::InvalidArgument(format!("mount source {path:?} is not absolute")));
    }
    if let Err(error) = fs::metadata(path) {
        if error.kind() != io::ErrorKind::NotFound {
            return Err(Error::io("looking at", path)(error));
        }
        fs::create_dir_all(path).map_err(Error::io("making", path))?;
    }
    path.canonicalize().map_err(Error::io("resolving", path))
}

/// Mounts travel only through a mount that is shared; a promise that they do is not made elsewhere.
fn check_propagation(source: &Path, wanted: MountPropagation) -> Result<()> {
    if wanted == MountPropagation::PropagationPrivate {
        return Ok(());
    }
    let path = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(path).map_err(Error::io("reading", path))?;
    let (mount, options) = mount_of(&text, source);
    let shared = options.iter().any(|option| option.starts_with("shared:"));
    let slave = options.iter().any(|option| option.starts_with("master:"));
    let fits = match wanted {
        MountPropagation::PropagationPrivate => true,
        MountPropagation::PropagationHostToContainer => shared || slave,
        MountPropagation::PropagationBidirectional => shared,
    };
    if fits {
        return Ok(());
    }
    let text = format!(
        "{} is mounted on {mount}, which is not a shared mount: mounts cannot travel through it",
        source.display()
    );
    Err(Error::FailedPrecondition(text))
}

/// The mount point a path is on, and that mount's optional fields.
fn mount_of<'a>(mountinfo: &'a str, path: &Path) -> (&'a str, Vec<&'a str>) {
    let mut best = ("/", Vec::new());
    for line in mountinfo.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let Some(mount) = fields.get(4) else { continue };
        if path.starts_with(mount) && mount.len() >= best.0.len() {
            let optional = fields.iter().skip(6).take_while(|field| **field != "-").copied().collect();
            best = (mount, optional);
        }
    }
    best
}

fn add_device(device: &Device, into: &mut Vec<HostDevice>) -> Result<()> {
    let path = Path::new(&device.host_path);
    let bad = device.permissions.chars().any(|c| !"rwm".contains(c)) || device.permissions.is_empty();
    if bad || !device.container_path.starts_with('/') {
        let text = format!("device {:?}: permissions {:?} or path", device.host_path, device.permissions);
        return Err(Error::InvalidArgument(format!("{text} cannot be used")));
    }
    let real = path
        .canonicalize()
        .map_err(|e| Error::InvalidArgument(format!("devices.host_path: {}: {e}", path.display())))?;
    if real.is_dir() {
        return add_devices_below(&real, &device.container_path, &device.permissions, into);
    }
    match device_at(&real, device.container_path.clone(), &device.permissions)? {
        Some(found) => push_device(found, into),
        None => Err(Error::InvalidArgument(format!("{} is not a device", path.display()))),
    }
}

fn add_devices_below(dir: &Path, inside: &str, access: &str, into: &mut Vec<HostDevice>) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io("listing", dir))? {
        let entry = entry.map_err(Error::io("listing", dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().map_err(Error::io("looking at", entry.path()))?;
        let own = OWN_DEVICES.contains(&name.as_str());
        if kind.is_dir() && !own {
            add_devices_below(&entry.path(), &format!("{inside}/{name}"), access, into)?;
        } else if (kind.is_char_device() || kind.is_block_device())
            && !own
            && let Some(found) = device_at(&entry.path(), format!("{inside}/{name}"), access)?
        {
            push_device(found, into)?;
        }
    }
    Ok(())
}

fn push_device(device: HostDevice, into: &mut Vec<HostDevice>) -> Result<()> {
    if into.len() >= MAX_DEVICES {
        return Err(Error::InvalidArgument(format!("more than {MAX_DEVICES} devices")));
    }
    into.retain(|other| other.path != device.path);
    into.push(device);
    Ok(())
}

pub(super) fn device_at(path: &Path, inside: String, access: &str) -> Result<Option<HostDevice>> {
    let metadata = fs::metadata(path).map_err(Error::io("looking at", path))?;
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => 'c',
        kind if kind.is_block_device() => 'b',
        _ => return Ok(None),
    };
    Ok(Some(HostDevice {
        path: inside,
        host_path: path.to_owned(),
        kind,
        major: rustix::fs::major(metadata.rdev()),
        minor: rustix::fs::minor(metadata.rdev()),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        access: access.to_owned(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_a_path_is_on_is_the_deepest_one_and_the_last() {
        let info = "20 1 0:1 / / rw shared:1 - ext4 a rw\n\
                    21 20 0:2 / /srv rw - tmpfs b rw\n\
                    22 20 0:3 / /srv rw master:3 shared:4 - tmpfs c rw\n";
        assert_eq!(mount_of(info, Path::new("/srv/x")), ("/srv", vec!["master:3", "shared:4"]));
        assert_eq!(mount_of(info, Path::new("/srvx")), ("/", vec!["shared:1"]));
    }

    #[test]
    fn a_device_is_looked_up_and_a_file_is_none() {
        let mut found = Vec::new();
        let device = |path: &str, permissions: &str| Device {
            container_path: "/dev/x".to_owned(),
            host_path: path.to_owned(),
            permissions: permissions.to_owned(),
        };
        add_device(&device("/dev/null", "rw"), &mut found).unwrap();
        assert_eq!((found[0].kind, found[0].major, found[0].minor), ('c', 1, 3));
        assert!(add_device(&device("/etc/passwd", "rw"), &mut found).is_err());
        assert!(add_device(&device("/dev/null", "x"), &mut found).is_err());
    }
}
