//! `report.html`: one page without scripts or anything fetched. Text of documents and models is escaped, always.
use super::markdown::{overlap_line, repeats_line, unindexed_line};
use super::svg::{self, Line, Point};
use super::tables::{self, Table};
use super::text::{grouped, p_value, percent, seconds, signed};
use super::{by_spread, spread};
use crate::Weights;
use crate::eval::arm::{Arm, Context, WEIGHTS, weights_label};
use crate::eval::integrity::{Overlap, Told};
use crate::metrics::Metric;
use crate::question::Stratum;
use crate::results::{ArmSummary, Asked, Contrast, Finding, Given, Results, Seen, Stage};
use crate::stats::Estimate;
use crate::verdict::Outcome;
use regex::RegexBuilder;

const STYLE: &str = include_str!("style.css");
/// Questions that stand open when the page is.
const OPEN: usize = 2;

pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // HTML has no place for them.
            other if other.is_control() && !other.is_ascii_whitespace() => {}
            other => out.push(other),
        }
    }
    out
}

pub fn html(results: &Results) -> String {
    let title = if results.facts.title.is_empty() {
        "Evaluation"
    } else {
        &results.facts.title
    };
    let sections = [
        section("matrix", "Matrix", &matrix_lead(results), matrix(results)),
        section(
            "differences",
            "Differences",
            &differences_lead(results),
            contrasts(results),
        ),
        section("strata", "By kind of question", "", strata(results)),
        section("retrieval", "Retrieval", RETRIEVAL, retrieval(results)),
        section(
            "latency",
            "Quality against latency",
            &latency_lead(results),
            scatter(results),
        ),
        section(
            "costs",
            "Cost, latency, maintenance",
            &costs_lead(results),
            costs(results),
        ),
        section("failures", "Where it went wrong", FAILURES, failures(results)),
        section("scores", "All scores", SCORES, scores(results)),
        section("judge", "A judge's view", JUDGE, judge(results)),
        section("questions", "Every question", QUESTIONS, questions(results)),
        section("integrity", "What was compared", "", integrity(results)),
    ];
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{title}</title>\n<style>\n{STYLE}</style></head>\n\
         <body>\n{head}<main>\n{sections}</main>\n</body></html>\n",
        title = escape(title),
        head = head(title, results),
        sections = sections.concat(),
    )
}

const RETRIEVAL: &str =
    "Of the questions whose gold passage is known. A second passage over the same gold counts nothing.";
const FAILURES: &str = "The first stage that failed, of every question an arm got wrong.";
const SCORES: &str = "Means out of 100, over the questions a score applies to; perplexity is as it is.";
const JUDGE: &str = "Each pair was judged in both orders; a winner that changed with the order is a tie.";
const QUESTIONS: &str = "The largest differences between arms first.";

fn section(id: &str, title: &str, lead: &str, body: String) -> String {
    if body.is_empty() {
        return String::new();
    }
    let lead = if lead.is_empty() {
        String::new()
    } else {
        format!("<p class=\"lead\">{}</p>", escape(lead))
    };
    format!("<section id=\"{id}\"><h2>{title}</h2>{lead}{body}</section>\n")
}

fn head(title: &str, results: &Results) -> String {
    let verdict = &results.verdict;
    let (class, word) = match verdict.outcome {
        Outcome::ShownBetter => ("good", "Shown better"),
        Outcome::NotShown => ("open", "Not shown"),
        Outcome::Worse => ("bad", "Worse"),
    };
    let facts = &results.facts;
    let count = |count: Option<usize>, name: &str| count.map(|count| format!("{} {name}", grouped(count as u64)));
    let about = [
        Some(facts.base.clone()).filter(|text| !text.is_empty()),
        count(Some(results.questions.len()), "questions"),
        count(facts.documents, "documents"),
        count(facts.chunks, "chunks"),
        Some(facts.machine.clone()).filter(|text| !text.is_empty()),
    ];
    let about: Vec<String> = about
        .into_iter()
        .flatten()
        .map(|text| format!("<span>{}</span>", escape(&text)))
        .collect();
    let notes: String = verdict
        .notes
        .iter()
        .map(|note| format!("<li>{}</li>", escape(note)))
        .collect();
    let notes = if notes.is_empty() {
        notes
    } else {
        format!("<ul>{notes}</ul>")
    };
    format!(
        "<header><h1>{}</h1><p class=\"about\">{}</p><div class=\"verdict {class}\"><b class=\"badge\">{word}</b>\
         <p>{}</p>{notes}</div></header>\n",
        escape(title),
        about.concat(),
        escape(&verdict.line),
    )
}

/// Colour of an arm: one a named arm, else that of its weights.
fn colour(arm: Arm) -> &'static str {
    match (arm.weights, arm.context) {
        (Weights::Base, Context::None) => "c-base",
        (Weights::Base, _) => "c-rag",
        (Weights::Tuned, _) => "c-tuned",
        (Weights::Hybrid, _) => "c-hybrid",
    }
}

/// May be broken after a plus.
fn tag(arm: Arm) -> String {
    format!(
        "<span class=\"arm {}\">{}</span>",
        colour(arm),
        arm.name().replace('+', "+<wbr>")
    )
}

/// Mean and interval of shares of 1 on a bar from 0 to 1.
fn bar(estimate: &Estimate, class: &str) -> String {
    let [mean, low, high] = [estimate.mean, estimate.low, estimate.high].map(|share| 100.0 * share.clamp(0.0, 1.0));
    format!(
        "<span class=\"bar {class}\"><i style=\"width:{mean:.2}%\"></i><u style=\"left:{low:.2}%;width:{:.2}%\"></u></span>",
        high - low
    )
}

fn range(estimate: &Estimate) -> String {
    format!("{}–{}", percent(estimate.low), percent(estimate.high))
}

fn matrix_lead(results: &Results) -> String {
    let metric = results.settings.metric;
    let misled = match metric {
        Metric::Right => " Among distractors only, saying so is right.",
        _ => "",
    };
    let (label, meaning) = (metric.label(), metric.meaning());
    format!("{label}, out of 100, with its 95 % interval. {meaning}.{misled}")
}

fn matrix(results: &Results) -> String {
    let mut out = String::from("<div class=\"matrix\"><span class=\"corner\"></span>");
    for context in Context::ALL {
        out.push_str(&format!("<span class=\"col\">{}</span>", context.label()));
    }
    for weights in WEIGHTS {
        out.push_str(&format!("<span class=\"row\">{}</span>", weights_label(weights)));
        for context in Context::ALL {
            out.push_str(&cell(Arm { weights, context }, results));
        }
    }
    out + "</div>"
}

fn cell(arm: Arm, results: &Results) -> String {
    let label = format!("<small class=\"context\">{}</small>", arm.context.label());
    let Some(summary) = results.arm(arm) else {
        let reason = results
            .left_out
            .iter()
            .find(|out| out.arm == arm)
            .map_or("not asked for", |out| &out.reason);
        return format!(
            "<div class=\"cell none\">{label}<small>{}</small></div>",
            escape(reason)
        );
    };
    let Some(score) = summary.scores.get(&results.settings.metric) else {
        return format!("<div class=\"cell none\">{label}<small>no score</small></div>");
    };
    let named = if Arm::NAMED.contains(&arm) {
        tag(arm)
    } else {
        format!("<small>{}</small>", arm.name())
    };
    let ship = if results.verdict.ship == arm { " ship" } else { "" };
    let best = if ship.is_empty() {
        ""
    } else {
        "<span class=\"pick\">ship</span>"
    };
    format!(
        "<div class=\"cell{ship}\">{label}<span class=\"top\">{named}{best}</span><b>{}</b>{}<small>{} · n {}</small></div>",
        percent(score.mean),
        bar(score, colour(arm)),
        range(score),
        score.n
    )
}

fn differences_lead(results: &Results) -> String {
    let grouped_by_hand = results.questions.iter().any(|asked| asked.question.group.is_some());
    let by = if grouped_by_hand { "group" } else { "source document" };
    format!(
        "First minus second, question by question, with the 95 % interval of {} resamples by {by}. An interval \
         that holds 0 shows nothing; p-values are Holm-adjusted over these comparisons.",
        grouped(results.settings.resamples as u64)
    )
}

fn contrasts(results: &Results) -> String {
    let overall: Vec<&Contrast> = results
        .contrasts
        .iter()
        .filter(|contrast| contrast.stratum.is_none())
        .collect();
    let reach = |contrast: &&Contrast| contrast.difference.low.abs().max(contrast.difference.high.abs());
    let span = overall.iter().map(reach).fold(0.05, f64::max);
    let rows: String = overall.iter().map(|contrast| contrast_row(contrast, span)).collect();
    if rows.is_empty() {
        rows
    } else {
        format!("<div class=\"contrasts\">{rows}</div>{}", contrasts_by_stratum(results))
    }
}

fn contrasts_by_stratum(results: &Results) -> String {
    let table = plain_table(&tables::differences_by_stratum(results));
    if table.is_empty() {
        return table;
    }
    format!(
        "<details class=\"more\"><summary>Within each kind of question</summary><p>Looked at without adjustment.</p>\
         {table}</details>"
    )
}

fn contrast_row(contrast: &Contrast, span: f64) -> String {
    let Estimate {
        mean,
        low,
        high,
        n,
        clusters,
        ..
    } = contrast.difference;
    let place = |value: f64| 50.0 + 50.0 * value / span;
    let class = match contrast.shown {
        Finding::Better => "good",
        Finding::Worse => "bad",
        Finding::NotShown => "open",
    };
    let tests = [
        contrast.adjusted_p.map(|p| format!("p {}", p_value(p))),
        contrast.mcnemar.map(|p| format!("McNemar {}", p_value(p))),
        Some(format!(
            "{} won, {} even, {} lost",
            contrast.wins, contrast.ties, contrast.losses
        )),
        Some(format!("{n} questions, {clusters} clusters")),
        (contrast.smallest_difference > 0.0)
            .then(|| format!("could show {} or more", percent(contrast.smallest_difference))),
        contrast
            .clean
            .map(|clean| format!("without overlaps {}", signed(clean.mean))),
    ];
    let tests: Vec<String> = tests.into_iter().flatten().collect();
    format!(
        "<div class=\"contrast {class}\"><span class=\"who\">{} <em>vs</em> {}</span>\
         <span class=\"forest\"><u style=\"left:{:.2}%;width:{:.2}%\"></u><i style=\"left:{:.2}%\"></i></span>\
         <span class=\"num\"><b>{}</b> <small>[{}, {}]</small></span><span class=\"chip\">{}</span>\
         <small class=\"tests\">{}</small></div>",
        tag(contrast.first),
        tag(contrast.second),
        place(low),
        place(high) - place(low),
        place(mean),
        signed(mean),
        signed(low),
        signed(high),
        tables::finding(contrast),
        tests.join(" · "),
    )
}

fn strata(results: &Results) -> String {
    let count = |stratum: Stratum| {
        results
            .questions
            .iter()
            .filter(|asked| asked.question.stratum == stratum)
            .count()
    };
    let strata: Vec<Stratum> = Stratum::ALL.into_iter().filter(|&stratum| count(stratum) > 0).collect();
    if strata.len() < 2 {
        return String::new();
    }
    let heads = strata
        .iter()
        .map(|&stratum| format!("<th>{}<small>{}</small></th>", stratum.name(), count(stratum)));
    let rows = results.arms.iter().map(|arm| {
        let cell = |stratum: &Stratum| match arm.strata.get(stratum) {
            Some(score) => heat(
                score.mean,
                &format!("{}<small>{}</small>", percent(score.mean), range(score)),
            ),
            None => "<td>–</td>".into(),
        };
        format!(
            "<tr><th>{}</th>{}</tr>",
            tag(arm.arm),
            strata.iter().map(cell).collect::<String>()
        )
    });
    scrolling(&format!(
        "<table class=\"heat\"><thead><tr><th></th>{}</tr></thead><tbody>{}</tbody></table>",
        heads.collect::<String>(),
        rows.collect::<String>()
    ))
}

fn heat(share: f64, content: &str) -> String {
    format!(
        "<td style=\"--heat:{:.0}%\">{content}</td>",
        55.0 * share.clamp(0.0, 1.0)
    )
}

fn scrolling(table: &str) -> String {
    format!("<div class=\"scroll\">{table}</div>")
}

fn plain_table(table: &Table) -> String {
    if table.rows.is_empty() || table.head.len() < 2 {
        return String::new();
    }
    let head: String = table
        .head
        .iter()
        .map(|name| format!("<th>{}</th>", arm_or_text(name)))
        .collect();
    let row = |(label, cells): &(String, Vec<String>)| {
        let cells = cells.iter().map(|cell| {
            let class = if cell == super::text::NOT_MEASURED {
                " class=\"missing\""
            } else {
                ""
            };
            format!("<td{class}>{}</td>", escape(cell))
        });
        let label = match label.split_once(": ") {
            Some((group, rest)) => format!("<small>{}</small>{}", escape(group), escape(rest)),
            None => escape(label),
        };
        format!("<tr><th>{label}</th>{}</tr>", cells.collect::<String>())
    };
    let rows: String = table.rows.iter().map(row).collect();
    scrolling(&format!(
        "<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    ))
}

fn arm_or_text(name: &str) -> String {
    Arm::parse(name).map_or_else(|| escape(name), tag)
}

fn retrieval(results: &Results) -> String {
    let summaries = &results.retrieval;
    let Some(first) = summaries.iter().find(|summary| !summary.by_k.is_empty()) else {
        return String::new();
    };
    let cuts: Vec<usize> = first.by_k.keys().copied().collect();
    let categories: Vec<String> = cuts.iter().map(|k| format!("k = {k}")).collect();
    let chart = |title: &str, of: fn(&crate::metrics::retrieval::RankScores) -> f64| {
        let line = |(i, summary): (usize, &crate::results::RetrieverSummary)| Line {
            class: format!("s{}", i % 4),
            values: cuts.iter().filter_map(|k| summary.by_k.get(k)).map(of).collect(),
        };
        let lines: Vec<Line> = summaries.iter().enumerate().map(line).collect();
        format!(
            "<figure><figcaption>{title}</figcaption>{}</figure>",
            svg::lines(title, &categories, &lines)
        )
    };
    let key = |(i, summary): (usize, &crate::results::RetrieverSummary)| {
        format!("<span class=\"key s{}\">{}</span>", i % 4, escape(&summary.retriever))
    };
    let keys: String = summaries.iter().enumerate().map(key).collect();
    let rows = summaries.iter().flat_map(|summary| {
        summary.by_k.iter().map(|(k, scores)| {
            let all = [scores.hit, scores.recall, scores.precision, scores.mrr, scores.ndcg].map(percent);
            (
                summary.retriever.clone(),
                [k.to_string()].into_iter().chain(all).collect(),
            )
        })
    });
    let head = ["", "k", "hit", "recall", "precision", "MRR", "nDCG"]
        .map(str::to_string)
        .to_vec();
    let table = plain_table(&Table {
        head,
        rows: rows.collect(),
    });
    let in_prompt = results
        .arm(Arm::RAG)
        .or(results.arm(Arm::HYBRID))
        .and_then(|arm| arm.gold_in_prompt);
    let in_prompt = in_prompt.map_or(String::new(), |share| {
        format!(
            "<p>After the token budget, gold stood in the prompt of <b>{} %</b> of these questions.</p>",
            percent(share)
        )
    });
    format!(
        "<p class=\"keys\">{keys}<small>{} questions</small></p><div class=\"charts\">{}{}</div>{in_prompt}\
         <details class=\"more\"><summary>All numbers</summary>{table}</details>",
        first.n,
        chart("Recall", |scores| scores.recall),
        chart("nDCG", |scores| scores.ndcg),
    )
}

fn scatter(results: &Results) -> String {
    let few = results.arms.len() <= 4;
    let point = |arm: &ArmSummary| {
        let score = arm.scores.get(&results.settings.metric)?;
        Some(Point {
            label: if few || Arm::NAMED.contains(&arm.arm) {
                arm.arm.name()
            } else {
                String::new()
            },
            title: arm.arm.name(),
            class: colour(arm.arm).to_string(),
            x: arm.cost.total?.p50,
            y: [score.mean, score.low, score.high],
        })
    };
    let points: Vec<Point> = results.arms.iter().filter_map(point).collect();
    if points.is_empty() {
        return String::new();
    }
    format!(
        "<div class=\"charts one\"><figure>{}</figure></div>",
        svg::scatter("Quality against latency", &points)
    )
}

fn latency_lead(results: &Results) -> String {
    format!(
        "Median time until an answer was there, {} answered together, retrieval included, against the share in the matrix \
         with its interval.",
        results.settings.batch_size
    )
}

fn costs_lead(results: &Results) -> String {
    let machine = &results.facts.machine;
    let on = if machine.is_empty() {
        String::new()
    } else {
        format!(" on {machine}")
    };
    format!(
        "Measured{on}, {} conversations answered together.",
        results.settings.batch_size
    )
}

fn costs(results: &Results) -> String {
    let even = results.break_even.iter().map(|even| {
        let answers = grouped(even.answers.ceil() as u64);
        format!(
            "<li>{} has paid for itself against {} after <b>{answers}</b> answers.</li>",
            tag(even.invest),
            tag(even.instead_of)
        )
    });
    let none = tables::no_break_even(results).map(|why| format!("<li>{why}</li>"));
    let even: String = even.chain(none).collect();
    format!("{}<ul class=\"even\">{even}</ul>", plain_table(&tables::costs(results)))
}

fn failures(results: &Results) -> String {
    let mut stages: Vec<Stage> = results.arms.iter().flat_map(|arm| arm.failed.keys().copied()).collect();
    stages.sort_unstable();
    stages.dedup();
    if stages.is_empty() {
        return String::new();
    }
    let key = |stage: &Stage| format!("<span class=\"key {}\">{}</span>", stage_class(*stage), stage.label());
    let keys: String = stages.iter().map(key).collect();
    let row = |arm: &ArmSummary| {
        let right = arm.answered - arm.failed.values().sum::<usize>();
        let part = |class: &str, name: &str, count: usize| {
            let share = 100.0 * count as f64 / arm.answered.max(1) as f64;
            let number = if share >= 6.0 { count.to_string() } else { String::new() };
            format!("<i class=\"{class}\" style=\"width:{share:.2}%\" title=\"{name}: {count}\">{number}</i>")
        };
        let parts = arm
            .failed
            .iter()
            .map(|(stage, &count)| part(stage_class(*stage), stage.label(), count));
        let parts: String = [part("f-right", "right", right)].into_iter().chain(parts).collect();
        format!("<span>{}</span><span class=\"stack\">{parts}</span>", tag(arm.arm))
    };
    let rows: String = results.arms.iter().map(row).collect();
    format!("<p class=\"keys\"><span class=\"key f-right\">right</span>{keys}</p><div class=\"stacks\">{rows}</div>")
}

fn stage_class(stage: Stage) -> &'static str {
    match stage {
        Stage::NotIndexed => "f-index",
        Stage::NotRetrieved => "f-retrieve",
        Stage::CutByBudget => "f-budget",
        Stage::NotUsed => "f-use",
        Stage::WrongFormat => "f-format",
        Stage::NotAbstained => "f-abstain",
        Stage::Wrong => "f-wrong",
    }
}

fn scores(results: &Results) -> String {
    let meaning = |metric: Metric| format!("<li><b>{}</b> {}</li>", metric.label(), escape(metric.meaning()));
    let measured = |metric: &Metric| results.arms.iter().any(|arm| arm.scores.contains_key(metric));
    let meanings: String = Metric::ALL.into_iter().filter(measured).map(meaning).collect();
    let harm = results
        .arms
        .iter()
        .find_map(|arm| arm.harm.and(arm.harm_against).map(|_| ()));
    let harm = harm.map_or(
        "",
        |()| "<li><b>Harm rate</b> Right without passages, wrong with them</li>",
    );
    let table = plain_table(&tables::scores(results));
    format!("{table}<details class=\"more\"><summary>What they mean</summary><ul>{meanings}{harm}</ul></details>")
}

fn judge(results: &Results) -> String {
    let row = |found: &crate::judge::Judgements| {
        let agreement = found.agreement.map_or("–".into(), percent);
        let counts =
            [found.wins, found.ties, found.losses, found.swayed, found.unreadable].map(|count| count.to_string());
        (
            format!("{} − {}", found.first, found.second),
            counts.into_iter().chain([agreement]).collect(),
        )
    };
    let head = [
        "",
        "wins",
        "ties",
        "losses",
        "swayed by order",
        "unreadable",
        "agrees with right, %",
    ];
    let head = head.map(str::to_string).to_vec();
    plain_table(&Table {
        head,
        rows: results.judgements.iter().map(row).collect(),
    })
}

fn integrity(results: &Results) -> String {
    let pair = |(name, value): (String, String)| format!("<dt>{}</dt><dd>{}</dd>", escape(&name), escape(&value));
    let pairs: String = tables::identity(results).into_iter().map(pair).collect();
    let out =
        |out: &crate::results::LeftOut| format!("<li>{} was left out: {}</li>", tag(out.arm), escape(&out.reason));
    let left_out: String = results.left_out.iter().map(out).collect();
    let lines = [
        Some(overlap_line(results)),
        repeats_line(results),
        unindexed_line(results),
    ];
    let line = |line: String| format!("<li>{}</li>", escape(&line));
    let lines: String = lines.into_iter().flatten().map(line).collect();
    format!("<ul>{lines}{left_out}</ul><dl>{pairs}</dl>")
}

fn questions(results: &Results) -> String {
    let asked = by_spread(results);
    let differing = asked.iter().filter(|asked| spread(asked, results) > 0.0).count();
    let wrong = asked.iter().filter(|asked| all_wrong(asked)).count();
    let filter = |id: &str, label: &str, count: usize, checked: &str| {
        format!(
            "<input type=\"radio\" name=\"show\" id=\"{id}\"{checked}><label for=\"{id}\">{label} <small>{count}</small></label>"
        )
    };
    let filters = [
        filter("show-all", "all", asked.len(), " checked"),
        filter("show-differing", "arms differ", differing, ""),
        filter("show-wrong", "all wrong", wrong, ""),
    ];
    let list: String = asked
        .iter()
        .enumerate()
        .map(|(i, asked)| question(asked, results, i < OPEN))
        .collect();
    format!(
        "<div class=\"filters\">{}</div><div class=\"questions\">{list}</div>",
        filters.concat()
    )
}

fn all_wrong(asked: &Asked) -> bool {
    !asked.answers.is_empty() && asked.answers.values().all(|given| given.failed.is_some())
}

fn question(asked: &Asked, results: &Results, open: bool) -> String {
    let question = &asked.question;
    let marked = |arm: Arm| asked.answers.len() <= 4 || Arm::NAMED.contains(&arm);
    let marks = asked.answers.iter().filter(|(arm, _)| marked(**arm));
    let marks: String = marks.map(|(arm, given)| mark(*arm, given)).collect();
    let mut class = String::from("question");
    if spread(asked, results) > 0.0 {
        class.push_str(" differing");
    }
    if all_wrong(asked) {
        class.push_str(" wrong");
    }
    let wanted = match (question.answers.as_slice(), question.stratum) {
        ([], Stratum::NotInCorpus) => "to say that the documents do not tell".to_string(),
        ([], _) => "a form, see its check".to_string(),
        (answers, _) => answers.join(" / "),
    };
    let overlaps: String = asked.overlaps.iter().map(overlap).collect();
    let answers: String = asked
        .answers
        .iter()
        .map(|(arm, given)| answer(*arm, given, results))
        .collect();
    format!(
        "<details class=\"{class}\"{}><summary><span class=\"q\">{}</span><span class=\"marks\">{marks}</span>\
         </summary><p class=\"wanted\"><small>wanted</small> {} <span class=\"chip\">{}</span>{overlaps}</p>\
         <div class=\"answers\">{answers}</div>{}</details>",
        if open { " open" } else { "" },
        escape(&question.question),
        escape(&wanted),
        question.stratum.name(),
        passages(asked),
    )
}

fn overlap(overlap: &Overlap) -> String {
    let what = match overlap.told {
        Told::Training(weights) => format!("in the training rows of {}", weights_label(weights)),
        Told::Answer(weights) => format!("answer in the training rows of {}", weights_label(weights)),
        Told::Corpus => "word for word in a document".into(),
    };
    let title = format!("{}: {}", overlap.origin, overlap.words);
    format!(" <span class=\"chip warn\" title=\"{}\">{what}</span>", escape(&title))
}

fn mark(arm: Arm, given: &Given) -> String {
    let (class, sign) = if given.failed.is_none() {
        ("yes", "✓")
    } else {
        ("no", "✗")
    };
    format!("<span class=\"mark {class}\">{sign} {}</span>", arm.name())
}

fn answer(arm: Arm, given: &Given, results: &Results) -> String {
    let stage = match given.failed {
        None => "<span class=\"chip good\">right</span>".to_string(),
        Some(stage) => format!("<span class=\"chip bad\">{}</span>", stage.label()),
    };
    let mut chips = Vec::new();
    for metric in [
        Metric::F1,
        Metric::AnswerRecall,
        Metric::Groundedness,
        results.settings.metric,
    ] {
        if let Some(score) = given.scores.get(&metric).filter(|_| metric != Metric::Right) {
            let chip = format!("{} {}", metric.label(), percent(*score));
            if !chips.contains(&chip) {
                chips.push(chip);
            }
        }
    }
    chips.extend(given.abstained.then(|| "says it does not know".to_string()));
    let cost = format!(
        "{} + {} tokens, {}",
        given.answer.prompt_tokens,
        given.answer.answer_tokens,
        seconds(given.answer.seconds)
    );
    chips.push(cost);
    let text = given.answer.text.trim();
    let text = if text.is_empty() {
        "<em>(nothing)</em>".into()
    } else {
        escape(text)
    };
    format!(
        "<article class=\"{}\"><h4>{}{stage}</h4><blockquote>{text}</blockquote><small>{}</small></article>",
        colour(arm),
        arm.name(),
        escape(&chips.join(" · "))
    )
}

fn passages(asked: &Asked) -> String {
    let list: String = asked
        .passages
        .iter()
        .enumerate()
        .map(|(i, seen)| passage(i, seen, asked))
        .collect();
    if list.is_empty() {
        return list;
    }
    let gold = asked.passages.iter().any(|seen| seen.gold);
    let lacking = match asked.indexed {
        Some(false) => " <span class=\"chip bad\">gold is not in the index</span>",
        Some(true) if !gold => " <span class=\"chip bad\">gold was not retrieved</span>",
        _ => "",
    };
    format!("<h4>Passages{lacking}</h4><div class=\"passages\">{list}</div>")
}

fn passage(place: usize, seen: &Seen, asked: &Asked) -> String {
    let mut chips = String::new();
    for (context, shown) in &asked.contexts {
        if let Some(number) = shown.passages.iter().position(|&at| at == place) {
            chips.push_str(&format!(
                "<span class=\"chip\">{} [{}]</span>",
                context.label(),
                number + 1
            ));
        }
        if shown.left_out.contains(&place) {
            chips.push_str(&format!(
                "<span class=\"chip warn\">{}, cut by budget</span>",
                context.label()
            ));
        }
    }
    if seen.gold {
        chips.insert_str(0, "<span class=\"chip gold\">gold</span>");
    }
    let passage = &seen.passage;
    let page = passage.page.map_or(String::new(), |page| format!(", page {page}"));
    let heading = if passage.heading.is_empty() {
        &passage.title
    } else {
        &passage.heading
    };
    let class = if seen.gold { " class=\"gold\"" } else { "" };
    format!(
        "<details{class}><summary><span class=\"from\">{}{page}</span> <small>{}</small> {chips}</summary><p>{}</p></details>",
        escape(&passage.document),
        escape(heading),
        highlighted(&passage.text, &asked.question.answers),
    )
}

/// Reference answers marked where they stand.
fn highlighted(text: &str, answers: &[String]) -> String {
    let words: Vec<String> = answers
        .iter()
        .map(|answer| answer.trim())
        .filter(|answer| !answer.is_empty())
        .map(regex::escape)
        .collect();
    let pattern = RegexBuilder::new(&words.join("|")).case_insensitive(true).build();
    let Some(pattern) = pattern.ok().filter(|_| !words.is_empty()) else {
        return escape(text);
    };
    let mut out = String::new();
    let mut end = 0;
    for found in pattern.find_iter(text) {
        out.push_str(&escape(&text[end..found.start()]));
        out.push_str(&format!("<mark>{}</mark>", escape(found.as_str())));
        end = found.end();
    }
    out + &escape(&text[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_never_becomes_structure() {
        let answers = ["<b>".to_string(), " ".to_string()];
        assert_eq!(highlighted("x <b> <i>", &answers), "x <mark>&lt;b&gt;</mark> &lt;i&gt;");
        assert_eq!(highlighted("a & b", &[]), "a &amp; b");
        assert_eq!(escape("\"'"), "&quot;&#39;");
    }
}
