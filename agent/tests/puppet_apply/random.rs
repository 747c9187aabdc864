//! Random catalogs, and what was there before.

use serde_json::{Value as Json, json};

use super::{Before, Case, catalog, resource};

/// A sequence of numbers that is the same for the same seed: Knuth's MMIX generator.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

/// What is made of one seed.
struct World {
    numbers: Numbers,
    before: Vec<(String, Before)>,
    lines: Vec<(String, String)>,
    /// What resources may come after: all of earlier blocks, and of their own container.
    names: Vec<String>,
    resources: Vec<(Json, Vec<String>)>,
}

/// Makes a random catalog without a cycle: relationships go from blocks, which are a resource or a container, to later ones; the manifest has them
/// in another order.
pub(super) fn case(seed: u64) -> Case {
    let mut world =
        World { numbers: Numbers(seed), before: Vec::new(), lines: Vec::new(), names: Vec::new(), resources: Vec::new() };
    world.line("etc/passwd", "keeper:x:20999:100::/home/keeper:/bin/sh");
    world.line("etc/shadow", "keeper:!:19000:0:99999:7:::");
    (0..14).for_each(|block| world.add_block(block));
    let World { mut numbers, before, lines, mut resources, .. } = world;
    numbers.shuffle(&mut resources);
    let holders: Vec<Vec<&str>> = resources.iter().map(|(_, holders)| holders.iter().map(String::as_str).collect()).collect();
    let resources: Vec<(Json, &[&str])> =
        resources.iter().zip(&holders).map(|((resource, _), holders)| (resource.clone(), holders.as_slice())).collect();
    let mut tags = |tag: &str, one_in: usize| if numbers.below(one_in) == 0 { vec![tag.to_owned()] } else { Vec::new() };
    let (tags, skip_tags) = (tags("one", 6), tags("two", 6));
    Case { name: format!("seed {seed}"), catalog: catalog(&resources), before, lines, tags, skip_tags }
}

impl World {
    fn line(&mut self, file: &str, line: &str) {
        self.lines.push((file.to_owned(), format!("{line}\n")));
    }

    /// Gives a resource relationships to what stands before it.
    fn relate(&mut self, parameters: &mut Json, names: &[String]) {
        let numbers = &mut self.numbers;
        if !names.is_empty() && numbers.below(5) < 3 {
            let parameter = if numbers.below(2) == 0 { "require" } else { "subscribe" };
            let first = names[numbers.below(names.len())].clone();
            let second = names[numbers.below(names.len())].clone();
            parameters[parameter] = if first == second { json!(first) } else { json!([first, second]) };
        }
    }

    /// Returns random tags, those of the container among them.
    fn tags(&mut self, of_holder: &[&'static str]) -> Vec<&'static str> {
        let numbers = &mut self.numbers;
        ["one", "two"].into_iter().filter(|tag| numbers.below(4) == 0 || of_holder.contains(tag)).collect()
    }

    fn push(&mut self, mut made: Json, tags: &[&str], holder: Option<&String>) {
        if let Some(own) = made["tags"].as_array_mut() {
            own.extend(tags.iter().map(|tag| json!(tag)));
        }
        self.resources.push((made, holder.into_iter().cloned().collect()));
    }

    /// Adds a resource, or a container with several.
    fn add_block(&mut self, block: usize) {
        let members = if self.numbers.below(3) == 0 { 2 + self.numbers.below(3) } else { 1 };
        let holder = (members > 1).then(|| format!("Group::Of[{block}]"));
        let earlier = self.names.clone();
        let (mut is_noop, mut holders_tags) = (false, Vec::new());
        if let Some(holder) = &holder {
            let mut parameters = json!({});
            self.relate(&mut parameters, &earlier);
            is_noop = self.numbers.below(6) == 0;
            if is_noop {
                parameters["noop"] = json!(true);
            }
            holders_tags = self.tags(&[]);
            self.push(resource("Group::Of", &block.to_string(), parameters), &holders_tags, None);
            self.names.push(holder.clone());
        }
        let mut own = Vec::new();
        for member in 0..members {
            let before: Vec<String> = earlier.iter().chain(&own).cloned().collect();
            let (kind, title, mut parameters) = self.any_resource(&format!("{block}.{member}"), &before);
            self.relate(&mut parameters, &before);
            // The compiler hands down what a container says.
            if self.numbers.below(8) == 0 || is_noop {
                parameters["noop"] = json!(true);
            }
            if self.numbers.below(8) == 0 {
                parameters["loglevel"] = json!("warning");
            }
            let tags = self.tags(&holders_tags);
            own.push(format!("{kind}[{title}]"));
            self.push(resource(kind, &title, parameters), &tags, holder.as_ref());
        }
        self.names.extend(own);
    }

    /// Makes a resource of a random type, and perhaps what was there before; `before` are the names of those that stand before it.
    fn any_resource(&mut self, number: &str, before: &[String]) -> (&'static str, String, Json) {
        let numbers = &mut self.numbers;
        let title = number.to_owned();
        match numbers.below(14) {
            0 => ("Notify", title, json!({})),
            1 => ("File", format!("/mnt/{title}"), json!({"content": title, "mode": "0644"})),
            2 => ("Exec", title, json!({"command": "/bin/true", "refreshonly": true})),
            3 if numbers.below(4) == 0 => ("Exec", title, json!({"command": "/bin/false"})),
            3 => ("Exec", title, json!({"command": "/bin/true"})),
            4 | 5 => {
                let parameters = random_file(numbers, &title);
                self.before.extend(random_before(numbers).map(|there| (title.clone(), there)));
                ("File", format!("/mnt/{title}"), parameters)
            }
            6 => ("Exec", title, random_command(numbers)),
            7 | 8 => self.any_user(number, before),
            9 | 10 => self.any_group(number),
            11 => self.any_job(number, before),
            12 => self.any_host(number),
            _ => self.any_key(number, before),
        }
    }

    /// Returns a resource of a type that stands before, if there is one.
    fn earlier(&mut self, kind: &str, before: &[String]) -> Option<String> {
        let titles = before.iter().filter_map(|name| name.strip_prefix(kind)?.strip_prefix('[')?.strip_suffix(']'));
        let titles: Vec<&str> = titles.collect();
        (!titles.is_empty()).then(|| titles[self.numbers.below(titles.len())].to_owned())
    }

    /// Sets a parameter, one time in so many, to one of the values.
    fn perhaps(&mut self, parameters: &mut Json, one_in: usize, name: &str, values: &[Json]) {
        if self.numbers.below(one_in) == 0 {
            parameters[name] = values[self.numbers.below(values.len())].clone();
        }
    }

    fn ensure(&mut self) -> Json {
        let ensure = if self.numbers.below(4) == 0 { "absent" } else { "present" };
        json!({"ensure": ensure})
    }

    fn any_user(&mut self, number: &str, before: &[String]) -> (&'static str, String, Json) {
        let name = format!("u{}", number.replace('.', "x"));
        let id = 21_000 + self.lines.len();
        if self.numbers.below(2) == 0 {
            let shell = ["/bin/sh", "/bin/bash"][self.numbers.below(2)];
            self.line("etc/passwd", &format!("{name}:x:{id}:100:Was There:/home/{name}:{shell}"));
            self.line("etc/shadow", &format!("{name}:$6$salt$hash:19000:0:99999:7:::"));
            if self.numbers.below(2) == 0 {
                self.line(&format!("home/{name}/.profile"), "true");
            }
        }
        let mut parameters = self.ensure();
        self.perhaps(&mut parameters, 2, "uid", &[json!(id), json!(22_000 + id), json!((23_000 + id).to_string())]);
        let group = self.earlier("Group", before).map_or(json!("mail"), |title| json!(title));
        self.perhaps(&mut parameters, 3, "gid", &[json!("users"), json!(8), json!("100"), group.clone()]);
        self.perhaps(&mut parameters, 3, "comment", &[json!("Was There"), json!("Some Body"), json!("")]);
        self.perhaps(&mut parameters, 2, "shell", &[json!("/bin/sh"), json!("/bin/bash"), json!("/usr/sbin/nologin")]);
        self.perhaps(
            &mut parameters,
            3,
            "home",
            &[json!(format!("/home/{name}")), json!("/home/elsewhere"), json!(format!("/home/{name}"))],
        );
        self.perhaps(&mut parameters, 3, "managehome", &[json!(true), json!(false)]);
        self.perhaps(&mut parameters, 3, "groups", &[json!(["mail", "audio"]), json!("audio"), json!(["games"]), json!([group])]);
        self.perhaps(&mut parameters, 4, "membership", &[json!("inclusive"), json!("minimum")]);
        self.perhaps(&mut parameters, 3, "password", &[json!("$6$salt$hash"), json!("!"), json!("$5$other$hash")]);
        self.perhaps(&mut parameters, 5, "password_min_age", &[json!(0), json!(7)]);
        self.perhaps(&mut parameters, 5, "password_max_age", &[json!(99_999), json!("30")]);
        self.perhaps(&mut parameters, 5, "password_warn_days", &[json!(7), json!(14)]);
        self.perhaps(&mut parameters, 5, "expiry", &[json!("2031-05-06"), json!("absent")]);
        self.perhaps(&mut parameters, 6, "system", &[json!(true)]);
        self.perhaps(&mut parameters, 6, "allowdupe", &[json!(true)]);
        // Puppet's call has `-o` without a number otherwise, which useradd refuses.
        if let Some(parameters) = parameters.as_object_mut().filter(|parameters| !parameters.contains_key("uid")) {
            parameters.remove("allowdupe");
        }
        ("User", name, parameters)
    }

    fn any_group(&mut self, number: &str) -> (&'static str, String, Json) {
        let name = format!("g{}", number.replace('.', "x"));
        let id = 24_000 + self.lines.len();
        if self.numbers.below(2) == 0 {
            let member = ["", "keeper"][self.numbers.below(2)];
            self.line("etc/group", &format!("{name}:x:{id}:{member}"));
            self.line("etc/gshadow", &format!("{name}:!::{member}"));
        }
        let mut parameters = self.ensure();
        // One that is taken, but not one that users name: they would come after this group, whatever stands before it.
        self.perhaps(&mut parameters, 2, "gid", &[json!(id), json!(25_000 + id), json!((26_000 + id).to_string()), json!(12)]);
        self.perhaps(&mut parameters, 5, "system", &[json!(true)]);
        // Puppet's call has `-o` without a number otherwise, which groupadd refuses.
        if parameters.get("gid").is_some() {
            self.perhaps(&mut parameters, 5, "allowdupe", &[json!(true)]);
        }
        ("Group", name, parameters)
    }

    fn any_job(&mut self, number: &str, before: &[String]) -> (&'static str, String, Json) {
        let name = format!("job {number}");
        let mut user = "root".to_owned();
        match self.numbers.below(4) {
            0 => user = "keeper".to_owned(),
            1 => user = self.earlier("User", before).unwrap_or(user),
            _ => {}
        }
        let place = format!("cron/crontabs/{user}");
        let mut had_word = false;
        match self.numbers.below(4) {
            // A table of nobody is none.
            _ if user.starts_with('u') => {}
            0 => self.line(&place, &format!("# Puppet Name: {name}\n5 4 * * * /bin/was")),
            1 => {
                self.line(&place, &format!("# Puppet Name: {name}\nA=b\n@daily /bin/true"));
                had_word = true;
            }
            2 => self.line(&place, &format!("# by hand\nMAILTO=x\n*/5 * * * 1-5 /bin/other {number}")),
            _ => {}
        }
        let mut parameters = self.ensure();
        parameters["command"] = [json!("/bin/true"), json!("/bin/echo 'a  b' > /dev/null")][self.numbers.below(2)].clone();
        parameters["user"] = json!(user);
        if self.numbers.below(5) == 0 {
            parameters["special"] = json!(["daily", "reboot", "hourly"][self.numbers.below(3)]);
        } else {
            self.perhaps(
                &mut parameters,
                2,
                "minute",
                &[json!("5"), json!(["0", "30"]), json!("*/10"), json!(7), json!("absent")],
            );
            self.perhaps(&mut parameters, 2, "hour", &[json!("4"), json!(["8-17"]), json!([1, 2])]);
            self.perhaps(&mut parameters, 4, "weekday", &[json!("Mon"), json!([1, "5"]), json!("sunday"), json!("*")]);
            self.perhaps(&mut parameters, 4, "month", &[json!("12"), json!("Jan"), json!(["2-4"])]);
            self.perhaps(&mut parameters, 4, "monthday", &[json!("31"), json!([1, 15])]);
        }
        self.perhaps(&mut parameters, 4, "environment", &[json!("A=b"), json!(["A=b", "PATH=/bin:/usr/bin"])]);
        if had_word {
            // Where `crontab -l` takes its name for a part of its own heading, Puppet adds them in every run.
            parameters.as_object_mut().unwrap().remove("environment");
        }
        if had_word && parameters.get("special").is_none() {
            // With a minute in the place of a word Puppet is never done.
            for field in ["minute", "hour", "weekday", "month", "monthday"] {
                parameters.as_object_mut().unwrap().remove(field);
            }
        }
        ("Cron", name, parameters)
    }

    fn any_host(&mut self, number: &str) -> (&'static str, String, Json) {
        let name = format!("h{}.example.com", number.replace('.', "x"));
        match self.numbers.below(4) {
            0 => self.line("etc/hosts", &format!("10.0.0.1\t{name}")),
            1 => self.line("etc/hosts", &format!("10.0.0.9  {name} one two # by hand")),
            _ => {}
        }
        let mut parameters = self.ensure();
        parameters["ip"] = [json!("10.0.0.1"), json!("10.0.0.2"), json!("fe80::1")][self.numbers.below(3)].clone();
        self.perhaps(&mut parameters, 2, "host_aliases", &[json!(["one", "two"]), json!("one"), json!([]), json!(["three"])]);
        self.perhaps(&mut parameters, 4, "comment", &[json!("by hand"), json!("by Puppet")]);
        ("Host", name, parameters)
    }

    fn any_key(&mut self, number: &str, before: &[String]) -> (&'static str, String, Json) {
        let name = format!("key{number}@example.com");
        let user = match self.numbers.below(3) {
            0 => self.earlier("User", before),
            _ => None,
        };
        // Where a home is not there, or everybody's, Puppet fails keys of others too.
        let has_home = |user: &String| self.lines.iter().any(|(path, _)| *path == format!("home/{user}/.profile"));
        let user = user.filter(has_home).unwrap_or_else(|| "keeper".to_owned());
        let (one, two) = ("AAAAC3NzaC1lZDI1NTE5AAAAIGxv", "AAAAB3NzaC1yc2EAAAADAQABAAABAQC");
        match self.numbers.below(4) {
            _ if user != "keeper" => {}
            0 => self.line("home/keeper/.ssh/authorized_keys", &format!("ssh-ed25519 {one} {name}")),
            1 => self.line("home/keeper/.ssh/authorized_keys", &format!("no-pty,command=\"a b\" ssh-rsa {two} {name}")),
            2 => self.line("home/keeper/.ssh/authorized_keys", &format!("# by hand\nssh-ed25519 {one} other{number}")),
            _ => {}
        }
        let mut parameters = self.ensure();
        let (kind, key) = if self.numbers.below(2) == 0 { ("ssh-ed25519", one) } else { ("ssh-rsa", two) };
        (parameters["type"], parameters["key"], parameters["user"]) = (json!(kind), json!(key), json!(user));
        self.perhaps(&mut parameters, 3, "options", &[json!("no-pty"), json!(["no-pty", "command=\"a b\""]), json!([])]);
        ("Ssh_authorized_key", name, parameters)
    }
}

/// Commands, with all that decides whether they run. They touch no file: ours run on this machine, whatever root is managed.
fn random_command(numbers: &mut Numbers) -> Json {
    match numbers.below(8) {
        0 => json!({"command": "/bin/true", "creates": "/mnt/1.0"}),
        1 => json!({"command": "/bin/true", "onlyif": ["/bin/true", "/bin/false"]}),
        2 => json!({"command": "/bin/true", "unless": ["/bin/false", "/bin/false"]}),
        3 => json!({"command": "/bin/false", "tries": 2, "try_sleep": 0}),
        4 => json!({"command": "exit 3", "provider": "shell", "returns": [0, 3]}),
        5 => json!({"command": "/bin/true", "refreshonly": true, "refresh": "/bin/true"}),
        6 => json!({"command": "test \"$A\" = 'b c'", "environment": ["A=b c"], "provider": "shell", "umask": "027", "cwd": "/"}),
        _ => json!({"command": ["test", "a b"], "path": ["/bin", "/usr/bin"], "creates": ["/mnt/none", "/mnt/0.0"]}),
    }
}

/// What may be where a file is managed.
fn random_before(numbers: &mut Numbers) -> Option<Before> {
    match numbers.below(7) {
        0 => Some(Before::File("other", 0o600)),
        1 => Some(Before::File("", 0o4755)),
        2 => Some(Before::Directory),
        3 => Some(Before::Link("/nonexistent")),
        4 => Some(Before::File("same", 0o644)),
        _ => None,
    }
}

/// What may be wanted of a file.
fn random_file(numbers: &mut Numbers, title: &str) -> Json {
    let mut parameters = match numbers.below(7) {
        0 => json!({"ensure": "absent"}),
        1 => json!({"ensure": "directory", "mode": "0750"}),
        2 => json!({"ensure": "link", "target": format!("to-{title}")}),
        3 => json!({"ensure": "present", "mode": "u=rw,go="}),
        4 => json!({"ensure": "file", "content": "same", "replace": false, "mode": "0640"}),
        5 => json!({"ensure": "file", "content": "same", "owner": 0, "group": 0}),
        _ => json!({"mode": "0604"}),
    };
    parameters["backup"] = json!(false);
    // Without it a directory in the way is an event there, and a failure without one here.
    parameters["force"] = json!(true);
    parameters
}
