//! The environment of the process: container, virtual machine, continuous integration.

use crate::os::cpuinfo::CpuInfo;
use crate::os::files::{Files, system_file};

/// The environment of the process, as far as it can be detected.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Environment {
    /// The service for continuous integration that runs this process, or `CI` for an unknown one.
    pub ci: Option<String>,
    /// The kind of container, if there are signs of one.
    pub container: Option<String>,
    /// Whether the machine is virtual; `None` where neither processor nor system report it.
    pub virtual_machine: Option<bool>,
    /// The hypervisor or the maker of the virtual machine, if the system names it.
    pub hypervisor: Option<String>,
}

/// Variables that services set, each with the service's name.
const CI_SERVICES: &[(&str, &str)] = &[
    ("GITHUB_ACTIONS", "GitHub Actions"),
    ("GITLAB_CI", "GitLab CI"),
    ("JENKINS_URL", "Jenkins"),
    ("BUILDKITE", "Buildkite"),
    ("CIRCLECI", "CircleCI"),
    ("TRAVIS", "Travis CI"),
    ("TF_BUILD", "Azure Pipelines"),
    ("TEAMCITY_VERSION", "TeamCity"),
    ("APPVEYOR", "AppVeyor"),
    ("DRONE", "Drone"),
    ("CIRRUS_CI", "Cirrus CI"),
    ("BITBUCKET_BUILD_NUMBER", "Bitbucket Pipelines"),
    ("CODEBUILD_BUILD_ID", "AWS CodeBuild"),
];

/// Parts of the paths of control groups, each with its container.
const CONTAINER_GROUPS: &[(&str, &str)] = &[
    ("kubepods", "kubernetes"),
    ("/docker", "docker"),
    ("libpod", "podman"),
    ("containerd", "containerd"),
    ("/lxc", "lxc"),
];

impl Environment {
    /// Reads the environment variables of this process and the files of the system.
    pub fn detect() -> Self {
        let info = CpuInfo::parse(&system_file("/proc/cpuinfo").unwrap_or_default());
        Self::of(&|name| std::env::var(name).ok(), &system_file, &info)
    }

    pub(super) fn of(
        variable: &dyn Fn(&str) -> Option<String>,
        files: Files<'_>,
        info: &CpuInfo,
    ) -> Self {
        // Makers of virtual machines also make physical ones: the processor's flag has priority over a name.
        let hypervisor = hypervisor(files).filter(|_| info.hypervisor() != Some(false));
        Self {
            ci: ci(variable),
            container: container(variable, files),
            virtual_machine: info.hypervisor().or(hypervisor.is_some().then_some(true)),
            hypervisor,
        }
    }
}

fn ci(variable: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let set = |name: &str| {
        variable(name).is_some_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
    };
    let service = CI_SERVICES.iter().find(|(name, _)| set(name)).map(|(_, service)| *service);
    service.or(set("CI").then_some("CI")).map(str::to_owned)
}

fn container(variable: &dyn Fn(&str) -> Option<String>, files: Files<'_>) -> Option<String> {
    if let Some(name) = variable("container").filter(|name| !name.is_empty()) {
        return Some(name);
    }
    if variable("KUBERNETES_SERVICE_HOST").is_some() {
        return Some("kubernetes".into());
    }
    for (path, name) in [("/.dockerenv", "docker"), ("/run/.containerenv", "podman")] {
        if files(path).is_some() {
            return Some(name.into());
        }
    }
    let groups = files("/proc/self/cgroup").unwrap_or_default();
    let found = CONTAINER_GROUPS.iter().find(|(part, _)| groups.contains(part));
    found.map(|(_, name)| (*name).to_owned())
}

fn hypervisor(files: Files<'_>) -> Option<String> {
    /// Makers of virtual machines, as their firmware names them.
    const MAKERS: &[&str] = &[
        "QEMU",
        "VMware",
        "innotek",
        "Xen",
        "Amazon EC2",
        "Google",
        "Parallels",
        "Red Hat",
        "Alibaba Cloud",
        "OpenStack",
        "DigitalOcean",
    ];
    if let Some(name) = files("/sys/hypervisor/type") {
        return Some(name.trim().to_owned());
    }
    let release = files("/proc/sys/kernel/osrelease").unwrap_or_default();
    if release.to_ascii_lowercase().contains("microsoft") {
        return Some("Hyper-V".into());
    }
    let maker = files("/sys/class/dmi/id/sys_vendor")?;
    let product = files("/sys/class/dmi/id/product_name").unwrap_or_default();
    if maker.starts_with("Microsoft") && product.contains("Virtual") {
        return Some("Hyper-V".into());
    }
    // Rented physical machines have the maker's name too, and `metal` in the product's name.
    let virtual_product = !product.contains("metal");
    let maker = MAKERS.iter().find(|name| maker.contains(**name) && virtual_product);
    maker.map(|name| (*name).to_owned())
}
