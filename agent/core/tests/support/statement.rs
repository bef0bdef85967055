//! The language of the scenario files.
//!
//! In: one line. Out: a [`Statement`]. It knows neither the simulator nor the real engine: whoever runs a file gives the
//! statements their meaning.

use std::collections::BTreeMap;
use std::time::Duration;

/// One line of a scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// `pod add|edit NAME [file=F] [restart=R] [containers=A,B] [grace=30s] [pull=P] [image.A=I] [hostNetwork=true]`:
    /// a manifest is written. Equal content is the same pod, other content of the same name another pod.
    PodSet { name: String, file: String, spec: PodText },
    /// `pod remove NAME [file=F]`: its manifest is removed.
    PodRemove { name: String, file: String },
    /// `pod image NAME A=I`: the image of a container changes and the pod stays the same one.
    PodImage { name: String, container: String, image: String },
    /// `pod shorten NAME 2s`: a terminating pod is to be gone by then.
    PodShorten { name: String, grace: Duration },
    /// `tick 10s`: time passes.
    Tick(Duration),
    /// `clock forward|back 1h`: the wall clock is set; what is timed goes on as it was. Programs that end by themselves
    /// must not be running then.
    ClockSet { forward: Duration, back: Duration },
    /// `container exit POD/NAME code=1`.
    ContainerExit { target: Target, code: i32 },
    /// `container oom POD/NAME`.
    ContainerOom { target: Target },
    /// `container unknown POD/NAME`: the runtime loses sight of it.
    ContainerUnknown { target: Target },
    /// `program POD/NAME exits code=1 after=2s`: what every run of it does from now on.
    ProgramExits { target: Target, code: i32, after: Duration },
    /// `program POD/NAME runs`: it runs until it is stopped.
    ProgramRuns { target: Target },
    /// `program POD/NAME ignores-stop`: only SIGKILL ends it.
    ProgramIgnoresStop { target: Target },
    /// `sandbox die POD [containers=killed|unknown|running]`.
    SandboxDie { pod: String, containers: Survivors },
    /// `sandbox vanish POD`: the runtime forgets the pod's sandboxes, and not their containers.
    SandboxVanish { pod: String },
    /// `image present|absent IMAGE`: on the node.
    Image { image: String, present: bool },
    /// `pull takes IMAGE 5s`.
    PullTakes { image: String, time: Duration },
    /// `VERB fail WHAT [times=1]`, VERB being pull, prepare, sandbox, create, start, stop, stopsandbox, remove,
    /// removesandbox, cleanup, WHAT an image, a pod or POD/NAME.
    Fail { verb: String, what: String, times: u32 },
    /// `agent stop`: it is killed.
    AgentStop,
    /// `agent start`.
    AgentStart,
    /// `agent restart`.
    AgentRestart,
    /// `crash after N actions`: the agent is killed after its Nth action from now and started again.
    CrashAfter(u32),
    /// `crash between create and start of POD/NAME [down=true]`: and started again, unless it is to stay down.
    CrashInStart { target: Target, down: bool },
    /// `show status|wake|explain POD`, `show node`, `show waiting`.
    Show { what: String, pod: String },
    /// `expect status POD key=value…`, `expect wake POD 10s|none`, `expect node empty`.
    Expect { what: String, pod: String, rest: Vec<String> },
}

/// A container of a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    pub pod: String,
    pub container: String,
}

/// What a sandbox that dies does to its containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survivors {
    Killed,
    Unknown,
    Running,
}

/// A manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodText {
    pub restart: String,
    pub pull: Option<String>,
    pub grace: Option<Duration>,
    pub host_network: bool,
    /// Names and images.
    pub containers: Vec<(String, String)>,
}

/// Reads one line; `None` for an empty line or a comment.
pub fn parse(line: &str) -> Result<Option<Statement>, String> {
    let line = line.split('#').next().unwrap_or_default().trim();
    if line.is_empty() {
        return Ok(None);
    }
    let mut words = Words::of(line);
    let statement = statement(&mut words).map_err(|reason| format!("{line}: {reason}"))?;
    words.end().map_err(|reason| format!("{line}: {reason}"))?;
    Ok(Some(statement))
}

/// `10s`, `2m`, `1500ms`, `1h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or("a duration needs a unit")?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| format!("{text} is no duration"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        "h" => Ok(Duration::from_secs(number * 3600)),
        _ => Err(format!("{unit} is no unit of time")),
    }
}

fn statement(words: &mut Words) -> Result<Statement, String> {
    let first = words.next()?;
    match first.as_str() {
        "pod" => pod(words),
        "tick" => Ok(Statement::Tick(duration(&words.next()?)?)),
        "clock" => clock(words),
        "container" => container(words),
        "program" => program(words),
        "image" => {
            let present = match words.next()?.as_str() {
                "present" => true,
                "absent" => false,
                other => return Err(format!("{other} is neither present nor absent")),
            };
            Ok(Statement::Image { present, image: words.next()? })
        }
        "agent" => match words.next()?.as_str() {
            "stop" => Ok(Statement::AgentStop),
            "start" => Ok(Statement::AgentStart),
            "restart" => Ok(Statement::AgentRestart),
            other => Err(format!("agent {other}?")),
        },
        "crash" => crash(words),
        "show" => {
            let what = words.next()?;
            let pod = if what == "node" || what == "waiting" { String::new() } else { words.next()? };
            Ok(Statement::Show { what, pod })
        }
        "expect" => {
            let what = words.next()?;
            let pod = words.next()?;
            Ok(Statement::Expect { what, pod, rest: words.rest() })
        }
        verb => fault_or_sandbox(verb, words),
    }
}

fn clock(words: &mut Words) -> Result<Statement, String> {
    match (words.next()?.as_str(), duration(&words.next()?)?) {
        ("forward", forward) => Ok(Statement::ClockSet { forward, back: Duration::ZERO }),
        ("back", back) => Ok(Statement::ClockSet { forward: Duration::ZERO, back }),
        (other, _) => Err(format!("clock {other}?")),
    }
}

fn pod(words: &mut Words) -> Result<Statement, String> {
    let verb = words.next()?;
    let name = words.next()?;
    match verb.as_str() {
        "add" | "edit" => {
            let file = words.take("file").unwrap_or_else(|| name.clone());
            Ok(Statement::PodSet { name, file, spec: pod_text(words)? })
        }
        "remove" => {
            let file = words.take("file").unwrap_or_else(|| name.clone());
            Ok(Statement::PodRemove { name, file })
        }
        "image" => {
            let (container, image) = words.take_any().ok_or("which container?")?;
            Ok(Statement::PodImage { name, container, image })
        }
        "shorten" => Ok(Statement::PodShorten { name, grace: duration(&words.next()?)? }),
        other => Err(format!("pod {other}?")),
    }
}

fn pod_text(words: &mut Words) -> Result<PodText, String> {
    let names = words.take("containers").unwrap_or_else(|| "app".to_owned());
    let containers = names
        .split(',')
        .map(|name| {
            let image = words.take(&format!("image.{name}")).unwrap_or_else(|| format!("{name}:1"));
            (name.to_owned(), image)
        })
        .collect();
    Ok(PodText {
        restart: words.take("restart").unwrap_or_else(|| "Always".to_owned()),
        pull: words.take("pull"),
        grace: words.take("grace").map(|text| duration(&text)).transpose()?,
        host_network: words.take("hostNetwork").is_some_and(|text| text == "true"),
        containers,
    })
}

fn container(words: &mut Words) -> Result<Statement, String> {
    let verb = words.next()?;
    let target = words.target()?;
    match verb.as_str() {
        "exit" => Ok(Statement::ContainerExit { target, code: words.number("code")? }),
        "oom" => Ok(Statement::ContainerOom { target }),
        "unknown" => Ok(Statement::ContainerUnknown { target }),
        other => Err(format!("container {other}?")),
    }
}

fn program(words: &mut Words) -> Result<Statement, String> {
    let target = words.target()?;
    match words.next()?.as_str() {
        "exits" => {
            let after = words.take("after").map_or(Ok(Duration::ZERO), |text| duration(&text))?;
            Ok(Statement::ProgramExits { target, code: words.number("code")?, after })
        }
        "runs" => Ok(Statement::ProgramRuns { target }),
        "ignores-stop" => Ok(Statement::ProgramIgnoresStop { target }),
        other => Err(format!("program {other}?")),
    }
}

fn crash(words: &mut Words) -> Result<Statement, String> {
    match words.next()?.as_str() {
        "after" => {
            let count = words.next()?.parse().map_err(|_| "after how many actions?")?;
            words.next()?;
            Ok(Statement::CrashAfter(count))
        }
        "between" => {
            for expected in ["create", "and", "start", "of"] {
                if words.next()? != expected {
                    return Err(format!("{expected} expected"));
                }
            }
            let down = words.take("down").is_some_and(|text| text == "true");
            Ok(Statement::CrashInStart { target: words.target()?, down })
        }
        other => Err(format!("crash {other}?")),
    }
}

fn fault_or_sandbox(verb: &str, words: &mut Words) -> Result<Statement, String> {
    const VERBS: [&str; 10] = [
        "pull",
        "prepare",
        "sandbox",
        "create",
        "start",
        "stop",
        "stopsandbox",
        "remove",
        "removesandbox",
        "cleanup",
    ];
    if !VERBS.contains(&verb) {
        return Err("no such statement".to_owned());
    }
    match words.next()?.as_str() {
        "fail" => {
            let times = words.take("times").map_or(Ok(1), |text| text.parse().map_err(|_| "how often?"))?;
            Ok(Statement::Fail { verb: verb.to_owned(), what: words.next()?, times })
        }
        "takes" if verb == "pull" => {
            Ok(Statement::PullTakes { image: words.next()?, time: duration(&words.next()?)? })
        }
        "vanish" if verb == "sandbox" => Ok(Statement::SandboxVanish { pod: words.next()? }),
        "die" if verb == "sandbox" => {
            let containers = match words.take("containers").as_deref() {
                None | Some("killed") => Survivors::Killed,
                Some("unknown") => Survivors::Unknown,
                Some("running") => Survivors::Running,
                Some(other) => return Err(format!("containers={other}?")),
            };
            Ok(Statement::SandboxDie { pod: words.next()?, containers })
        }
        other => Err(format!("{verb} {other}?")),
    }
}

struct Words {
    plain: std::collections::VecDeque<String>,
    settings: BTreeMap<String, String>,
    all: Vec<String>,
}

impl Words {
    fn of(line: &str) -> Self {
        let all: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let mut words = Self { plain: Default::default(), settings: BTreeMap::new(), all: all.clone() };
        for word in all {
            match word.split_once('=') {
                Some((key, value)) => {
                    words.settings.insert(key.to_owned(), value.to_owned());
                }
                None => words.plain.push_back(word),
            }
        }
        words
    }

    fn next(&mut self) -> Result<String, String> {
        self.plain.pop_front().ok_or_else(|| "a word is missing".to_owned())
    }

    fn take(&mut self, key: &str) -> Option<String> {
        self.settings.remove(key)
    }

    fn take_any(&mut self) -> Option<(String, String)> {
        self.settings.pop_first()
    }

    fn number(&mut self, key: &str) -> Result<i32, String> {
        let text = self.take(key).unwrap_or_else(|| "0".to_owned());
        text.parse().map_err(|_| format!("{key}={text} is no number"))
    }

    fn target(&mut self) -> Result<Target, String> {
        let text = self.next()?;
        let (pod, container) = text.split_once('/').ok_or("POD/CONTAINER expected")?;
        Ok(Target { pod: pod.to_owned(), container: container.to_owned() })
    }

    /// Everything after the first three words.
    fn rest(&mut self) -> Vec<String> {
        self.plain.clear();
        self.settings.clear();
        self.all.iter().skip(3).cloned().collect()
    }

    fn end(&self) -> Result<(), String> {
        match (self.plain.front(), self.settings.keys().next()) {
            (None, None) => Ok(()),
            (Some(word), _) | (None, Some(word)) => Err(format!("what is {word}?")),
        }
    }
}
