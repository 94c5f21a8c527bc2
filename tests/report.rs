//! The page must be complete, honest, self-contained and small, whatever the records are.

#[path = "browser/records.rs"]
mod records;

use records::{comparison, many, options, past, realistic, troubled};
use touchstone_bench::record::{Executor, Outcome, Record};
use touchstone_reports::{Options, render, write};

fn page(records: &[Record]) -> String {
    render(records, &options()).unwrap()
}

/// The page as a tree. The page is written so that an XML parser reads it, which also proves that every tag
/// is closed and every text escaped.
fn with_tree(page: &str, look: impl FnOnce(&roxmltree::Document<'_>)) {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    match roxmltree::Document::parse_with_options(page, options) {
        Ok(document) => look(&document),
        Err(error) => panic!("not well-formed: {error}"),
    }
}

/// Whether `node` is inside an element of the class.
fn in_class(node: roxmltree::Node<'_, '_>, class: &str) -> bool {
    node.ancestors().any(|outer| outer.attribute("class") == Some(class))
}

fn text_of(node: roxmltree::Node<'_, '_>) -> String {
    let texts: Vec<&str> =
        node.descendants().filter(|n| n.is_text()).filter_map(|n| n.text()).collect();
    texts.join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_page_is_well_formed_and_its_fragments_exist_once() {
    for records in [realistic(), troubled(), Vec::new()] {
        with_tree(&page(&records), |tree| {
            let mut ids: Vec<&str> =
                tree.descendants().filter_map(|node| node.attribute("id")).collect();
            let all = ids.len();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), all, "an id is given twice");
            let links = tree.descendants().filter_map(|node| node.attribute("href"));
            for target in links.filter(|href| !href.starts_with("data:")) {
                let id = target.strip_prefix('#').expect("only links within the page");
                assert!(ids.contains(&id), "{target} leads nowhere");
            }
        });
    }
}

#[test]
fn the_page_loads_nothing_from_anywhere() {
    let page = page(&troubled());
    for load in ["http:", "https:", "//cdn", "@import", "url(", "<link", "src=", "<iframe"] {
        assert!(!page.contains(load), "the page contains {load}");
    }
}

#[test]
fn every_plot_has_a_title_axes_with_units_and_only_finite_numbers() {
    let page = page(&troubled());
    with_tree(&page, |tree| {
        let plots: Vec<_> = tree.descendants().filter(|node| node.has_tag_name("svg")).collect();
        assert!(plots.len() > 12, "{} plots", plots.len());
        for plot in plots {
            let title = plot.first_element_child().unwrap();
            assert!(title.has_tag_name("title") && title.text().is_some());
            for attribute in plot.descendants().flat_map(|node| node.attributes()) {
                assert!(!attribute.value().contains("NaN"), "{attribute:?}");
                assert!(!attribute.value().contains("inf"), "{attribute:?}");
            }
        }
    });
    for unit in [" µs</text>", " ms</text>", " MiB</text>", " %</text>"] {
        let text = page.replace('\n', "");
        assert!(text.contains(unit), "no tick says {unit}");
    }
}

#[test]
fn the_first_words_say_whether_everything_is_right() {
    let verdict = |records: &[Record]| {
        let mut said = String::new();
        with_tree(&page(records), |tree| {
            let node = tree
                .descendants()
                .find(|n| n.attribute("class").is_some_and(|class| class.starts_with("verdict")));
            said = text_of(node.unwrap());
        });
        said
    };
    let right = verdict(&realistic());
    assert!(right.starts_with("Every kernel that ran is right: "), "{right}");
    let references: Vec<Record> =
        realistic().into_iter().filter(|record| record.executor == Executor::Cpu).collect();
    let no_kernel = verdict(&references);
    assert!(no_kernel.starts_with("No kernel ran, so none is proven"), "{no_kernel}");
    let wrong = verdict(&troubled());
    assert!(wrong.contains("1 result wrong, 1 run failed"), "{wrong}");
    let empty = verdict(&[]);
    assert!(empty.contains("no records"), "{empty}");
    let skipped: Vec<Record> = realistic()
        .into_iter()
        .filter(|record| matches!(record.outcome, Outcome::Skipped { .. }))
        .collect();
    let nothing = verdict(&skipped);
    assert!(nothing.starts_with("Nothing ran"), "{nothing}");
}

#[test]
fn what_is_wrong_or_failed_is_named_with_its_replay() {
    let records = troubled();
    with_tree(&page(&records), |tree| {
        let problems =
            tree.descendants().find(|node| node.attribute("id") == Some("problems")).unwrap();
        let text = text_of(problems);
        for said in [
            &format!("touchstone check '{}'", records[0].case),
            "got <NaN> & \"more\"",
            "CUDA: illegal address",
        ] {
            assert!(text.contains(said), "{said} is missing in: {text}");
        }
    });
}

#[test]
fn skips_of_the_same_reason_are_one_line_with_their_count() {
    let records = realistic();
    let count = records
        .iter()
        .filter(|r| r.outcome == Outcome::Skipped { reason: "no CUDA device".into() })
        .count();
    with_tree(&page(&records), |tree| {
        let section =
            tree.descendants().find(|node| node.attribute("id") == Some("skipped")).unwrap();
        let lines: Vec<String> = section
            .descendants()
            .filter(|node| node.has_tag_name("tr"))
            .map(text_of)
            .filter(|line| line.contains("no CUDA device"))
            .collect();
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with(&format!("{count} no CUDA device")), "{}", lines[0]);
    });
}

#[test]
fn the_text_chain_is_told_in_words_and_plots() {
    with_tree(&page(&realistic()), |tree| {
        let chain = tree.descendants().find(|node| node.attribute("id") == Some("chain")).unwrap();
        let text = text_of(chain);
        for said in [
            "90000 words",
            "kneser ney",
            "virtus (0.81)",
            "agrees with theory: 58.3 %",
            "Verified on NVIDIA H200",
            "tree, distinct guesses, 1.67 times the speed",
            "Kneser–Ney of order 3, which drafts",
        ] {
            assert!(text.contains(said), "{said} is missing in: {text}");
        }
        assert_eq!(chain.descendants().filter(|node| node.has_tag_name("svg")).count(), 3);
    });
    let options = Options { text_chain: Some(serde_json::json!({ "corpus": 1 })), ..options() };
    assert!(render(&[], &options).unwrap_err().to_string().contains("text chain"));
}

#[test]
fn every_record_with_a_result_is_in_a_table() {
    let records = realistic();
    let proven = records.iter().filter(|record| record.agreement().is_some()).count();
    with_tree(&page(&records), |tree| {
        let rows = tree.descendants().filter(|node| {
            node.has_tag_name("tr")
                && in_class(*node, "records")
                && node.parent().unwrap().has_tag_name("tbody")
        });
        let cases = rows.filter(|row| {
            row.descendants().any(|n| n.attribute("href").is_some_and(|to| to.starts_with("#c-")))
        });
        assert_eq!(cases.count(), proven);
    });
}

#[test]
fn every_case_has_an_address_and_a_line_that_replays_it() {
    let records = troubled();
    with_tree(&page(&records), |tree| {
        let said: std::collections::HashSet<String> = tree
            .descendants()
            .filter(|node| node.attribute("id").is_some_and(|id| id.starts_with("c-")))
            .map(|row| row.descendants().find(|node| node.has_tag_name("code")).unwrap())
            .map(|code| {
                code.descendants().filter_map(|n| n.text().filter(|_| n.is_text())).collect()
            })
            .collect();
        for record in &records {
            let line = format!("touchstone check '{}'", record.case);
            assert!(said.contains(&line), "{line} is missing");
        }
    });
}

#[test]
fn the_records_can_be_had_from_the_page() {
    use base64::Engine;
    use std::{collections::BTreeSet, io::Read};
    let records = realistic();
    let page = page(&records);
    let (_, rest) = page.split_once("data:application/gzip;base64,").unwrap();
    let (data, _) = rest.split_once('"').unwrap();
    let packed = base64::engine::general_purpose::STANDARD.decode(data).unwrap();
    let mut lines = String::new();
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut lines).unwrap();
    let read = touchstone_bench::record::from_lines("page", lines.as_bytes()).unwrap();
    // The page has an order of its own.
    let told = |records: &[Record]| -> BTreeSet<String> {
        records
            .iter()
            .map(|r| format!("{:?} {:?}", r.key(), r.measurement().map(|m| m.cold_ns.len())))
            .collect()
    };
    assert_eq!(read.len(), records.len());
    assert_eq!(told(&read), told(&records));
}

#[test]
fn no_plot_mixes_devices() {
    with_tree(&page(&realistic()), |tree| {
        for figure in tree.descendants().filter(|node| node.has_tag_name("figure")) {
            let caption = text_of(figure.first_element_child().unwrap());
            let apart = ["Error as", "How near", "Cost, counted"];
            let in_chain = figure.ancestors().any(|node| node.attribute("id") == Some("chain"));
            if apart.iter().any(|heading| caption.starts_with(heading)) || in_chain {
                continue;
            }
            let legend = text_of(figure);
            let (gpu, cpu) = (caption.contains("H100"), caption.contains("EPYC"));
            assert!(gpu != cpu, "{caption}");
            assert_eq!(cpu, legend.contains("reference"), "{caption}: {legend}");
        }
    });
}

#[test]
fn an_invalid_time_is_never_the_fastest() {
    let mut records: Vec<Record> = realistic();
    records.retain(|r| r.op() == "ssm.recurrence" && r.executor == Executor::Cuda);
    records.retain(|r| r.measurement().is_some());
    for record in &mut records {
        if let Outcome::Measured { measurement, .. } = &mut record.outcome
            && record.variant == "recurrence_chunked"
        {
            measurement.above_limit = true;
        }
    }
    with_tree(&page(&records), |tree| {
        let summary =
            tree.descendants().find(|node| node.attribute("id") == Some("summary")).unwrap();
        let text = text_of(summary);
        assert!(text.contains("recurrence_block_scan"), "{text}");
        assert!(!text.contains("recurrence_chunked"), "{text}");
        assert!(text.contains("beyond what the device can do"), "{text}");
    });
}

#[test]
fn samples_that_are_no_numbers_do_not_break_the_page() {
    let mut records = realistic();
    for (index, record) in records.iter_mut().enumerate() {
        let Outcome::Measured { agreement, measurement } = &mut record.outcome else { continue };
        match index % 5 {
            0 => measurement.cold_ns = vec![f64::NAN; 31],
            1 => measurement.cold_ns.clear(),
            2 => {
                measurement.cold_ns.clear();
                measurement.warm_ns = vec![0.0];
            }
            3 => agreement.outputs.clear(),
            _ => measurement.peak_bytes = 0,
        }
    }
    with_tree(&page(&records), |_| {});
}

#[test]
fn names_from_records_cannot_write_tags() {
    let mut records = realistic();
    for record in &mut records {
        record.variant = format!("<script>\"'&{}", record.variant);
        record.case += ",name=<b>";
    }
    let page = page(&records);
    with_tree(&page, |_| {});
    assert_eq!(page.matches("<script>").count(), 1, "only the page's own");
}

#[test]
fn two_thousand_records_stay_below_three_mebibytes() {
    let size = page(&many(2000)).len();
    assert!(size < 3 << 20, "{size} bytes");
}

#[test]
fn the_page_is_written_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("report");
    let path = write(&realistic(), &dir, &options()).unwrap();
    assert_eq!(path, dir.join("index.html"));
    assert!(std::fs::read_to_string(&path).unwrap().ends_with("</html>\n"));
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "nothing is left beside it");
    // A page to look at: TOUCHSTONE_LOOK=FOLDER cargo test --test report written
    if let Some(look) = std::env::var_os("TOUCHSTONE_LOOK") {
        write(&realistic(), std::path::Path::new(&look), &options()).unwrap();
        write(&troubled(), &std::path::Path::new(&look).join("troubled"), &options()).unwrap();
    }
}

#[test]
fn history_follows_each_case_over_the_revisions() {
    let options = Options { history: true, ..Options::default() };
    let page = render(&past(), &options).unwrap();
    with_tree(&page, |tree| {
        let history =
            tree.descendants().find(|node| node.attribute("id") == Some("history")).unwrap();
        let text = text_of(history);
        assert!(text.contains("5 runs at 5 revisions"), "{}", &text[..200]);
        for said in ["aaaa111", "cccc333", "last / first"] {
            assert!(text.contains(said), "{said} is missing");
        }
        let sparks = history.descendants().filter(|node| node.attribute("class") == Some("spark"));
        let timed = realistic().iter().filter(|record| record.measurement().is_some()).count();
        assert_eq!(sparks.count(), timed);
    });
    let single = render(&realistic(), &options).unwrap();
    assert!(single.contains("No question was timed more than once"));
}

#[test]
fn a_comparison_is_told_with_every_verdict() {
    let options = Options { comparison: Some(comparison()), ..Options::default() };
    let page = render(&realistic(), &options).unwrap();
    with_tree(&page, |tree| {
        let section =
            tree.descendants().find(|node| node.attribute("id") == Some("comparison")).unwrap();
        let text = text_of(section);
        assert!(text.contains("Not as good as before: "), "{}", &text[..200]);
        for verdict in ["wrong", "missing", "slower", "unclear", "faster", "new", "same"] {
            let rows = section
                .descendants()
                .filter(|node| node.has_tag_name("td") && node.attribute("class") == Some(verdict));
            let told = comparison().changes.iter().filter(|c| c.verdict == verdict).count();
            assert_eq!(rows.count(), told, "{verdict}");
        }
    });
}

/// Runs the command line in `folder`; returns what it printed.
fn touchstone(folder: &std::path::Path, arguments: &[&str]) -> String {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_touchstone"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn records_files_become_pages_of_comparison_and_history() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let save = |name: &str, records: &[Record]| {
        let lines: Vec<String> =
            records.iter().map(|record| serde_json::to_string(record).unwrap()).collect();
        std::fs::create_dir_all(path.join("all")).unwrap();
        std::fs::write(path.join("all").join(name), lines.join("\n")).unwrap();
    };
    let records = past();
    let of = |revision: &str| -> Vec<Record> {
        records.iter().filter(|r| r.environment.revision == revision).cloned().collect()
    };
    save("a.jsonl", &of("aaaa1111"));
    save("c.jsonl", &of("cccc3333"));
    let read = |name: &str| std::fs::read_to_string(path.join(name).join("index.html")).unwrap();

    let told = touchstone(path, &["compare", "all/a.jsonl", "all/c.jsonl", "--out", "changes"]);
    assert!(told.contains("| faster |") && told.contains("page: changes/index.html"), "{told}");
    assert!(read("changes").contains("Nothing is worse than before: "), "all are faster");
    touchstone(path, &["report", "all/a.jsonl", "--against", "all/c.jsonl", "--out", "worse"]);
    assert!(read("worse").contains("Not as good as before: "), "all are slower");
    touchstone(path, &["report", "--history", "all", "--out", "history"]);
    assert!(read("history").contains("at 2 revisions"), "two files are two revisions");
}
