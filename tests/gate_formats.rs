//! What the gate writes: each format against its schema or a real parser.

#[path = "gate/support.rs"]
mod support;

use support::*;

/// Verdicts of every kind, with text that could break a format.
fn every_verdict() -> Verdicts {
    let nasty = "3 NaN & <tag> \"quoted\" 100 %, a|b\nsecond line: \u{1}";
    let named = |name: &str, outcome| record(name, Executor::Cuda, outcome);
    let baseline =
        ["slow", "fast", "same", "gone", "wrong", "few"].map(|n| named(n, around(1000.0)));
    let current = [
        named("slow", around(2000.0)),
        named("fast", around(500.0)),
        named("same", around(1000.0)),
        named("wrong", Outcome::Wrong { agreement: None, complaint: nasty.into() }),
        named("few", measured(&[1.0, 2.0])),
        named("new", around(1000.0)),
    ];
    let verdicts = gate(&baseline, &current, &GateOptions::default());
    for verdict in Verdict::ALL {
        assert_eq!(verdicts.count(verdict), 1, "{verdict:?}");
    }
    verdicts
}

#[test]
fn verdicts_json_follows_its_schema() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/ci/verdicts.schema.json");
    let schema = touchstone_ci::json_schema();
    if std::env::var_os("TOUCHSTONE_ACCEPT").is_some() {
        std::fs::write(path, &schema).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == schema, "stale: run with TOUCHSTONE_ACCEPT=1 and commit it");
    let schema = serde_json::from_str(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let mut json: serde_json::Value =
        serde_json::from_str(&every_verdict().json().unwrap()).unwrap();
    let errors: Vec<String> = validator.iter_errors(&json).map(|e| e.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    json["entries"][0]["verdict"] = "splendid".into();
    assert!(!validator.is_valid(&json), "the schema takes anything");
}

#[test]
fn junit_xml_is_well_formed_and_counts_what_it_holds() {
    let mut verdicts = every_verdict();
    verdicts.problem = Some("foreign <baseline>".into());
    let text = verdicts.junit().unwrap();
    let document = roxmltree::Document::parse(&text).unwrap();
    let root = document.root_element();
    assert_eq!(root.tag_name().name(), "testsuites");
    let all = |node: roxmltree::Node<'_, '_>, name: &str| {
        node.descendants().filter(|n| n.tag_name().name() == name).count()
    };
    // As the JUnit schema has it: suites hold cases, and say how many of which kind.
    for node in root.children().filter(roxmltree::Node::is_element).chain([root]) {
        let says = |name: &str| node.attribute(name).unwrap().parse::<usize>().unwrap();
        assert_eq!(says("tests"), all(node, "testcase"));
        assert_eq!(says("failures"), all(node, "failure"));
        assert_eq!(says("errors"), all(node, "error"));
    }
    let cases = root.descendants().filter(|n| n.tag_name().name() == "testcase");
    assert!(cases.clone().all(|c| c.attribute("name").is_some()));
    assert!(cases.clone().skip(1).all(|c| c.attribute("classname") == Some("scan.sum.sizes")));
    let counts = ["testcase", "failure", "error", "skipped"].map(|name| all(root, name));
    assert_eq!(counts, [8, 3, 1, 1]);
    let messages: Vec<_> = root.descendants().filter_map(|n| n.attribute("message")).collect();
    assert!(messages.iter().any(|m| m.contains("3 NaN & <tag> \"quoted\"")), "{messages:?}");
}

#[test]
fn sarif_is_read_by_a_sarif_reader() {
    let log: serde_sarif::sarif::Sarif =
        serde_json::from_str(&every_verdict().sarif().unwrap()).unwrap();
    let run = &log.runs[0];
    let results = run.results.as_ref().unwrap();
    let rules: Vec<_> = results.iter().map(|r| r.rule_id.clone().unwrap()).collect();
    assert_eq!(rules, ["wrong", "missing", "slower"]);
    let known: Vec<_> = run.tool.driver.rules.iter().flatten().map(|r| r.id.clone()).collect();
    assert!(rules.iter().all(|rule| known.contains(rule)), "{known:?}");
    for result in results {
        let place = &result.locations.as_ref().unwrap()[0].physical_location.as_ref().unwrap();
        assert!(place.artifact_location.as_ref().unwrap().uri.is_some());
        assert!(place.region.as_ref().unwrap().start_line == Some(1));
    }
}

#[test]
fn bencher_metric_format_follows_its_description() {
    // bencher.dev/docs/reference/bencher-metric-format
    let number = serde_json::json!({ "type": "number" });
    let schema = serde_json::json!({
        "type": "object",
        "minProperties": 1,
        "propertyNames": { "minLength": 1, "maxLength": 1024 },
        "additionalProperties": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {
                "type": "object",
                "required": ["value"],
                "properties": { "value": number, "lower_value": number, "upper_value": number },
                "additionalProperties": false,
            },
        },
    });
    let json: serde_json::Value =
        serde_json::from_str(&every_verdict().bencher().unwrap()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(&json).map(|e| e.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    let slow = &json[format!("slow on {CASE}")]["latency"];
    assert_eq!((slow["value"].as_f64(), json.as_object().unwrap().len()), (Some(2000.0), 4));
}

#[test]
fn annotations_are_one_command_a_line_whatever_the_text_holds() {
    let text = every_verdict().annotations();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    for line in &lines {
        let rest = line.strip_prefix("::error title=").unwrap();
        let (title, message) = rest.split_once("::").unwrap();
        assert!(!title.contains([':', ',']) && !message.is_empty(), "{line}");
    }
    assert!(lines[0].contains("title=wrong%3A wrong::"), "{}", lines[0]);
    assert!(lines[0].contains("100 %25, a|b%0Asecond line"), "{}", lines[0]);
}
