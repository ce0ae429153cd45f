//! Whether JSON is as a schema says: the part of JSON Schema 2020-12 that the agent's own document uses. A keyword that is not known
//! here is an error and no success. Patterns and formats are left to others.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

/// What says nothing about values, or is looked at by others.
const SILENT: &[&str] = &["description", "default", "format", "pattern", "title", "examples", "deprecated"];

/// Checks `value` against `schema`, whose references are to `document`.
///
/// # Errors
/// Where it is otherwise.
pub fn check(document: &Value, schema: &Value, value: &Value) -> Result<()> {
    match schema {
        Value::Bool(true) => Ok(()),
        Value::Bool(false) => bail!("nothing may stand here, and there is {value}"),
        Value::Object(keywords) => {
            for (keyword, says) in keywords {
                one(document, keywords, keyword, says, value).with_context(|| format!("{keyword}: {value}"))?;
            }
            Ok(())
        }
        other => bail!("no schema: {other}"),
    }
}

fn one(document: &Value, all: &Map<String, Value>, keyword: &str, says: &Value, value: &Value) -> Result<()> {
    let any = |says: &Value| -> Result<Vec<Result<()>>> {
        Ok(says.as_array().context("a list")?.iter().map(|schema| check(document, schema, value)).collect())
    };
    match keyword {
        "$ref" => {
            let pointer = says.as_str().and_then(|to| to.strip_prefix('#')).context("a reference within the document")?;
            let schema = document.pointer(pointer).with_context(|| format!("there is no {pointer}"))?;
            check(document, schema, value)
        }
        "type" => {
            let is = |name: &Value| match name.as_str().unwrap_or_default() {
                "null" => value.is_null(),
                "boolean" => value.is_boolean(),
                "string" => value.is_string(),
                "number" => value.is_number(),
                "integer" => value.is_i64() || value.is_u64(),
                "array" => value.is_array(),
                "object" => value.is_object(),
                _ => false,
            };
            let fits = says.as_array().map_or_else(|| is(says), |names| names.iter().any(is));
            ensure!(fits, "it is no {says}");
            Ok(())
        }
        "enum" => {
            ensure!(says.as_array().is_some_and(|of| of.contains(value)), "it is none of {says}");
            Ok(())
        }
        "const" => {
            ensure!(says == value, "it is not {says}");
            Ok(())
        }
        "anyOf" => {
            let tried = any(says)?;
            ensure!(tried.iter().any(Result::is_ok), "it is none of them: {tried:#?}");
            Ok(())
        }
        "oneOf" => {
            let tried = any(says)?;
            ensure!(tried.iter().filter(|one| one.is_ok()).count() == 1, "it is not one of them: {tried:#?}");
            Ok(())
        }
        "allOf" => any(says)?.into_iter().collect(),
        "minimum" | "maximum" => {
            let (Some(number), Some(bound)) = (value.as_f64(), says.as_f64()) else { return Ok(()) };
            ensure!(if keyword == "minimum" { number >= bound } else { number <= bound }, "it is beyond {says}");
            Ok(())
        }
        "minLength" | "maxLength" => {
            let (Some(text), Some(bound)) = (value.as_str(), says.as_u64()) else { return Ok(()) };
            let length = text.chars().count() as u64;
            ensure!(if keyword == "minLength" { length >= bound } else { length <= bound }, "it has {length} characters");
            Ok(())
        }
        "minItems" | "maxItems" => {
            let (Some(items), Some(bound)) = (value.as_array(), says.as_u64()) else { return Ok(()) };
            let length = items.len() as u64;
            ensure!(if keyword == "minItems" { length >= bound } else { length <= bound }, "{length} items");
            Ok(())
        }
        "required" => {
            let Some(members) = value.as_object() else { return Ok(()) };
            let missing =
                says.as_array().into_iter().flatten().filter_map(Value::as_str).find(|name| !members.contains_key(*name));
            ensure!(missing.is_none(), "{missing:?} is missing");
            Ok(())
        }
        "properties" => {
            let Some(members) = value.as_object() else { return Ok(()) };
            for (name, schema) in says.as_object().context("an object")? {
                if let Some(member) = members.get(name) {
                    check(document, schema, member).with_context(|| name.clone())?;
                }
            }
            Ok(())
        }
        "additionalProperties" => {
            let Some(members) = value.as_object() else { return Ok(()) };
            let known = all.get("properties").and_then(Value::as_object);
            for (name, member) in members.iter().filter(|(name, _)| known.is_none_or(|known| !known.contains_key(*name))) {
                check(document, says, member).with_context(|| name.clone())?;
            }
            Ok(())
        }
        "prefixItems" => {
            let (Some(items), Some(schemas)) = (value.as_array(), says.as_array()) else { return Ok(()) };
            items.iter().zip(schemas).try_for_each(|(item, schema)| check(document, schema, item))
        }
        "items" => {
            let first = all.get("prefixItems").and_then(Value::as_array).map_or(0, Vec::len);
            let Some(items) = value.as_array() else { return Ok(()) };
            items.iter().skip(first).try_for_each(|item| check(document, says, item))
        }
        _ if SILENT.contains(&keyword) || keyword.starts_with("x-") => Ok(()),
        _ => bail!("a keyword that is not known here"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_otherwise_than_the_schema_says_is_found() {
        let document = json!({ "s": { "Port": { "type": "integer", "minimum": 0, "maximum": 65535 } } });
        let schema = json!({
            "type": "object",
            "properties": {
                "port": { "$ref": "#/s/Port" },
                "name": { "type": ["string", "null"], "minLength": 1 },
                "state": { "oneOf": [{ "const": "up" }, { "const": "down" }] },
                "range": { "type": "array", "prefixItems": [{ "$ref": "#/s/Port" }, { "$ref": "#/s/Port" }], "maxItems": 2 },
                "labels": { "type": "object", "additionalProperties": { "type": "string" } },
            },
            "required": ["port"],
            "additionalProperties": false,
        });
        let well = |value: Value| check(&document, &schema, &value).is_ok();
        assert!(well(json!({ "port": 80, "name": null, "state": "up", "range": [1, 2], "labels": { "a": "b" } })));
        for bad in [
            json!({}),
            json!({ "port": 65_536 }),
            json!({ "port": "80" }),
            json!({ "port": 80, "name": "" }),
            json!({ "port": 80, "state": "left" }),
            json!({ "port": 80, "range": [1, 2, 3] }),
            json!({ "port": 80, "range": [1, "2"] }),
            json!({ "port": 80, "labels": { "a": 1 } }),
            json!({ "port": 80, "more": 1 }),
        ] {
            assert!(!well(bad.clone()), "{bad}");
        }
        assert!(check(&document, &json!({ "dependentRequired": {} }), &json!({})).is_err(), "a keyword that nobody looks at");
    }
}
