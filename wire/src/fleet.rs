//! The members of a fleet as JSON: a router's answer to `GET /fleet`, and files of members.
//!
//! `GET /fleet` names the workers that serve weights to peers, at the addresses where they do. It is for members of the
//! fleet: operators, and who presents the key that router and workers share. It has an entity tag, so that asking
//! again costs a few bytes while nothing changes.

use serde::{Deserialize, Serialize};

/// The path of a router's fleet view.
pub const FLEET_PATH: &str = "/fleet";
/// The version of [`FleetView`]. It grows when a field changes its meaning or goes; a new field does not change it.
pub const FLEET_VERSION: u32 = 1;
/// The largest view that is read, in bytes: names of 100 bytes each, and room to spare.
pub const FLEET_BYTES_MAX: usize = 8 << 20;

/// The members of a fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetView {
    /// The version of these fields, [`FLEET_VERSION`]; 0 where nobody says.
    #[serde(default)]
    pub fleet_version: u32,
    /// The members, in no particular order.
    pub members: Vec<FleetMember>,
}

/// One member of a fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetMember {
    /// `HOST:PORT`; an IPv6 address stands in brackets.
    pub address: String,
    /// Its identity; its address where nobody says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The zone that it runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The name that its certificate must hold; its host where nobody says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_must_be_there_and_unknown_fields_may() {
        let view: FleetView =
            serde_json::from_str(r#"{"members":[{"address":"a:1","rack":7}],"epoch":1}"#).expect("a view");
        let member = FleetMember { address: "a:1".into(), id: None, zone: None, name: None };
        assert_eq!(view, FleetView { fleet_version: 0, members: vec![member] });
        assert_eq!(serde_json::to_value(&view).expect("JSON")["members"][0], serde_json::json!({"address": "a:1"}));
    }
}
