//! Files and ports, by Landlock.

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, NetPort,
    RestrictSelfError, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError,
    RulesetStatus, path_beneath_rules,
};

use super::{Extent, Needs};

/// The newest rights that are asked for; an older kernel knows fewer.
const RIGHTS: ABI = ABI::V5;

/// Confines files and ports.
///
/// # Errors
/// What the kernel refused.
pub fn landlock(needs: &Needs) -> Result<Extent, String> {
    let wrong = |e: RulesetError| e.to_string();
    let mut rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    let mut handled = BitFlags::<AccessFs>::empty();
    if !needs.any_file {
        handled = AccessFs::from_all(RIGHTS);
        if needs.read_all {
            handled &= !AccessFs::from_read(RIGHTS) | AccessFs::Execute;
        }
        rules = rules.handle_access(handled).map_err(wrong)?;
    }
    if needs.listen.is_some() {
        rules = rules.handle_access(AccessNet::BindTcp).map_err(wrong)?;
    }
    if needs.connect.is_some() {
        rules = rules.handle_access(AccessNet::ConnectTcp).map_err(wrong)?;
    }
    let mut rules = rules.create().map_err(wrong)?;
    if !needs.any_file {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let run = read | AccessFs::Execute;
        let change = AccessFs::from_all(RIGHTS) & !AccessFs::Execute;
        for (paths, access) in [(&needs.read, read), (&needs.execute, run), (&needs.write, change)]
        {
            let access = access & handled;
            if !access.is_empty() {
                rules = rules.add_rules(path_beneath_rules(paths, access)).map_err(wrong)?;
            }
        }
    }
    for (ports, access) in
        [(&needs.listen, AccessNet::BindTcp), (&needs.connect, AccessNet::ConnectTcp)]
    {
        for port in ports.iter().flatten() {
            rules = rules.add_rule(NetPort::new(*port, access)).map_err(wrong)?;
        }
    }
    let status = match rules.restrict_self() {
        Ok(status) => status,
        Err(RulesetError::RestrictSelf(RestrictSelfError::RestrictSelfCall { source, .. }))
            if source.raw_os_error() == Some(libc::E2BIG) =>
        {
            return Ok(Extent::Before);
        }
        Err(e) => return Err(wrong(e)),
    };
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Extent::Full,
        RulesetStatus::PartiallyEnforced => Extent::Partial,
        RulesetStatus::NotEnforced => Extent::None,
    })
}
