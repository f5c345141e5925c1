//! Which consumer groups work on this database. It should be one: two releases that share a database share its work, each with
//! its own providers, topics and limits, and neither knows of the other.

use crate::sql::{sql, text};
use crate::{Error, Tx};
use domain::Millis;
use std::time::Duration;

/// Where a group's last sign of life stands in `meta`, before its name.
const AT_WORK: &str = "group_at_work/";
/// Consumers give a sign of life once a minute: without one for so long, none of a group is at work.
pub const AT_WORK_WITHIN: Duration = Duration::from_mins(3);
/// A group that was renamed or taken down is forgotten after this.
const FORGOTTEN: Duration = Duration::from_hours(24);

impl Tx {
    /// A sign of life of this group.
    pub async fn is_at_work(&mut self, group: &str) -> Result<(), Error> {
        let now = self.now();
        self.set_meta(&format!("{AT_WORK}{group}"), &now.0.to_string()).await?;
        for (name, at) in self.groups().await? {
            if at < now.minus(FORGOTTEN).0 {
                let sql = "DELETE FROM meta WHERE name = $1";
                self.run(sql!(sql, format!("{AT_WORK}{name}"))).await?;
            }
        }
        Ok(())
    }

    /// Other groups that gave a sign of life within that time.
    pub async fn others_at_work(&mut self, group: &str, within: Duration) -> Result<Vec<String>, Error> {
        let since = self.now().minus(within).0;
        let others = self.groups().await?.into_iter().filter(|(name, at)| name != group && *at >= since);
        Ok(others.map(|(name, _)| name).collect())
    }

    /// The last sign of life of any group. None: there was none yet.
    pub async fn last_at_work(&mut self) -> Result<Option<Millis>, Error> {
        Ok(self.groups().await?.into_iter().map(|(_, at)| Millis(at)).max())
    }

    async fn groups(&mut self) -> Result<Vec<(String, i64)>, Error> {
        let sql = "SELECT name, value FROM meta WHERE name LIKE 'group_at_work/%' ORDER BY name";
        let mut groups = Vec::new();
        for row in self.rows(sql!(sql)).await? {
            let (name, at) = (text(&row, "name")?, text(&row, "value")?);
            groups.push((name.strip_prefix(AT_WORK).unwrap_or(&name).to_owned(), at.parse().unwrap_or(0)));
        }
        Ok(groups)
    }
}
