//! Changes accounts, by the commands of the `passwd` package.

use super::compare::{AGES, Found};
use super::parameters::{Expiry, Parameters, PrimaryGroup};
use crate::fs::FileKind;
use crate::provider::Context;
use crate::provider::accounts::{Tool, Tools};
use crate::provider::command::Input;
use crate::provider::file::read;
use crate::provider::record::Ensure;

/// Options of `chage`, in the order of [`AGES`].
const AGE_OPTIONS: [&str; 3] = ["-m", "-M", "-W"];

/// Makes one change.
pub(super) async fn change(
    context: &Context,
    tools: &Tools<'_>,
    parameters: &Parameters,
    found: &Found,
    property: &str,
) -> Result<(), String> {
    let modify =
        async |option: &str, value: String| tools.run(Tool::UserMod, &[option.to_owned(), value, parameters.name.clone()]).await;
    match (property, parameters.ensure) {
        ("ensure", Ensure::Present) => create(context, tools, parameters, found).await,
        ("ensure", Ensure::Absent) => {
            let home = parameters.manage_home.then(|| "-r".to_owned());
            let arguments: Vec<String> = home.into_iter().chain([parameters.name.clone()]).collect();
            tools.run(Tool::UserDel, &arguments).await
        }
        ("home", _) => modify("-d", parameters.home.clone().unwrap_or_default()).await,
        ("uid", _) => {
            let mut arguments = vec!["-u".to_owned(), parameters.uid.unwrap_or_default().to_string()];
            arguments.extend(parameters.allow_duplicate.then(|| "-o".to_owned()));
            arguments.push(parameters.name.clone());
            tools.run(Tool::UserMod, &arguments).await
        }
        ("gid", _) => modify("-g", group_number(parameters, found)?).await,
        ("comment", _) => modify("-c", parameters.comment.clone().unwrap_or_default()).await,
        ("shell", _) => {
            check_shell(context, parameters).await?;
            modify("-s", parameters.shell.clone().unwrap_or_default()).await
        }
        ("password", _) => set_password(tools, parameters).await,
        ("groups", _) => {
            let current = found.account.as_ref().map(|account| &account.groups[..]).unwrap_or_default();
            modify("-G", parameters.wanted_groups(current).unwrap_or_default().join(",")).await
        }
        ("expiry", _) => modify("-e", expiry(parameters)).await,
        (age, _) => {
            let at = AGES.iter().position(|name| *name == age).ok_or_else(|| format!("{age} cannot be changed"))?;
            set_ages(tools, parameters, |index| index == at).await
        }
    }
}

fn expiry(parameters: &Parameters) -> String {
    match &parameters.expiry {
        Some(Expiry::On(date)) => date.clone(),
        Some(Expiry::Never) | None => String::new(),
    }
}

fn group_number(parameters: &Parameters, found: &Found) -> Result<String, String> {
    match (&parameters.gid, found.gid) {
        (_, Some(gid)) => Ok(gid.to_string()),
        (Some(PrimaryGroup::Name(name)), None) => Err(format!("Could not find group(s) {name}")),
        (_, None) => Err("no group is given".to_owned()),
    }
}

async fn create(context: &Context, tools: &Tools<'_>, parameters: &Parameters, found: &Found) -> Result<(), String> {
    check_shell(context, parameters).await?;
    let mut arguments: Vec<String> = Vec::new();
    let mut option = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            arguments.extend([name.to_owned(), value]);
        }
    };
    option("-c", parameters.comment.clone());
    option("-e", Some(expiry(parameters)));
    match &parameters.gid {
        Some(_) => option("-g", Some(group_number(parameters, found)?)),
        None => option("-g", found.has_own_group.then(|| parameters.name.clone())),
    }
    option("-G", parameters.wanted_groups(&[]).map(|groups| groups.join(",")));
    option("-d", parameters.home.clone());
    option("-s", parameters.shell.clone());
    option("-u", parameters.uid.map(|uid| uid.to_string()));
    arguments.extend((parameters.allow_duplicate && parameters.uid.is_some()).then(|| "-o".to_owned()));
    arguments.push(if parameters.manage_home { "-m" } else { "-M" }.to_owned());
    arguments.extend(parameters.system.then(|| "-r".to_owned()));
    arguments.push(parameters.name.clone());
    tools.run(Tool::UserAdd, &arguments).await?;
    set_ages(tools, parameters, |_| true).await?;
    if parameters.password.is_some() { set_password(tools, parameters).await } else { Ok(()) }
}

/// Sets those ages of passwords that the resource has and `is_chosen` by index.
async fn set_ages(tools: &Tools<'_>, parameters: &Parameters, is_chosen: impl Fn(usize) -> bool) -> Result<(), String> {
    let ages = AGE_OPTIONS.iter().zip(parameters.ages).enumerate();
    let mut arguments: Vec<String> = ages
        .filter(|(index, _)| is_chosen(*index))
        .filter_map(|(_, (option, days))| Some([(*option).to_owned(), days?.to_string()]))
        .flatten()
        .collect();
    if arguments.is_empty() {
        return Ok(());
    }
    arguments.push(parameters.name.clone());
    tools.run(Tool::Age, &arguments).await
}

/// Sets the hash. It goes through a pipe: no list of processes, no file and no log has it.
async fn set_password(tools: &Tools<'_>, parameters: &Parameters) -> Result<(), String> {
    let Some(password) = &parameters.password else { return Ok(()) };
    let line = format!("{}:{}\n", parameters.name, password.0);
    let result = tools.run_with(Tool::Passwords, &["-e".to_owned()], Some(Input(line.into_bytes()))).await;
    // What it says of a line may repeat the line.
    result.map_err(|reason| reason.replace(&password.0, "[redacted]"))
}

/// Refuses a shell that is not there or not executable; below another root too.
async fn check_shell(context: &Context, parameters: &Parameters) -> Result<(), String> {
    let Some(shell) = parameters.shell.clone().filter(|shell| !shell.is_empty()) else { return Ok(()) };
    let path = read::absolute_path(&shell).map_err(|reason| format!("Shell {shell}: {reason}"))?;
    let root = context.root().clone();
    let at_the_end = move || root.stat(&root.resolve(&path).ok()??).ok()?;
    let look = move || match at_the_end() {
        Some(stat) if stat.kind() == FileKind::File && stat.permissions() & 0o111 != 0 => Ok(()),
        Some(_) => Err(format!("Shell {shell} must be executable")),
        None => Err(format!("Shell {shell} must exist")),
    };
    tokio::task::spawn_blocking(look).await.map_err(|error| error.to_string())?
}
