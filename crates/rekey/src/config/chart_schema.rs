//! What the chart's values may say under `config`, made from the types of the settings.

use super::Config;
use schemars::generate::SchemaSettings;
use serde_json::Value;

/// The JSON schema of the settings that may stand in plain sight: secrets come by reference, and the chart itself sets where a
/// role listens. `deploy/chart/values.schema.json` holds it.
pub fn chart_schema() -> Value {
    let settings = SchemaSettings::draft07().with(|s| {
        s.inline_subschemas = true;
        s.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<Config>().to_value();
    tighten(&mut schema);
    schema
}

/// Every setting has a default, so none is required, and one that is misspelt is refused by its name.
fn tighten(schema: &mut Value) {
    let Value::Object(object) = schema else { return };
    for noise in ["title", "required", "format"] {
        object.remove(noise);
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        properties.values_mut().for_each(tighten);
        object.insert("additionalProperties".into(), false.into());
    }
    if let Some(items) = object.get_mut("items") {
        tighten(items);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_takes_these_settings() {
        let values = include_str!("../../../../deploy/chart/values.schema.json");
        let values: Value = serde_json::from_str(values).unwrap();
        assert!(values["properties"]["config"] == chart_schema(), "paste what `rekey config-schema` prints");
    }
}
