//! The series that dashboards and alerts made for vLLM read.

use crate::worker_process::start;
use serde_json::json;

/// Histograms, of which dashboards read the buckets.
const HISTOGRAMS: [&str; 16] = [
    "vllm:time_to_first_token_seconds",
    "vllm:inter_token_latency_seconds",
    "vllm:time_per_output_token_seconds",
    "vllm:request_time_per_output_token_seconds",
    "vllm:e2e_request_latency_seconds",
    "vllm:request_queue_time_seconds",
    "vllm:request_prefill_time_seconds",
    "vllm:request_decode_time_seconds",
    "vllm:request_inference_time_seconds",
    "vllm:request_prompt_tokens",
    "vllm:request_prefill_kv_computed_tokens",
    "vllm:request_generation_tokens",
    "vllm:request_max_num_generation_tokens",
    "vllm:request_params_n",
    "vllm:request_params_max_tokens",
    "vllm:iteration_tokens_total",
];

#[tokio::test]
async fn every_series_that_vllms_dashboard_reads_is_there_before_the_first_request_and_moves() {
    let worker = start(json!({})).await;
    let text = worker.get("/metrics").await.text();
    for name in HISTOGRAMS {
        assert!(text.contains(&format!("{name}_count{{engine=\"0\",model_name=\"demo\"}} 0")), "{name} is absent");
    }
    for series in [
        "vllm:request_success_total{engine=\"0\",finished_reason=\"length\",model_name=\"demo\"} 0",
        "vllm:request_success_total{engine=\"0\",finished_reason=\"error\",model_name=\"demo\"} 0",
        "vllm:num_requests_waiting_by_reason{engine=\"0\",model_name=\"demo\",reason=\"capacity\"} 0",
        "vllm:prompt_tokens_by_source_total{engine=\"0\",model_name=\"demo\",source=\"local_compute\"} 0",
        "vllm:prompt_tokens_cached_total{engine=\"0\",model_name=\"demo\"} 0",
        "vllm:corrupted_requests_total{engine=\"0\",model_name=\"demo\"} 0",
        "vllm:engine_sleep_state{engine=\"0\",model_name=\"demo\",sleep_state=\"awake\"} 1",
        "vllm:external_prefix_cache_hits_total{engine=\"0\",model_name=\"demo\"} 0",
        "vllm:time_to_first_token_seconds_bucket{engine=\"0\",model_name=\"demo\",le=\"1.0\"} 0",
        "forebay_worker_finished_total{model=\"demo\",reason=\"abort\"} 0",
        "forebay_worker_step_faults_total{kind=\"panic\",model=\"demo\"} 0",
        "forebay_worker_swaps_total{model=\"demo\",outcome=\"refused\"} 0",
    ] {
        assert!(text.contains(series), "{series} is absent: {text}");
    }
    worker.chat(json!({"n": 2, "max_tokens": 5, "ignore_eos": true})).await;
    worker.until("vllm:request_success_total", |count| count == 2.0).await;
    for (name, count, sum) in [
        ("vllm:request_params_n", 1.0, Some(2.0)),
        ("vllm:request_params_max_tokens", 1.0, Some(5.0)),
        ("vllm:request_max_num_generation_tokens", 1.0, Some(5.0)),
        ("vllm:request_generation_tokens", 2.0, Some(10.0)),
        ("vllm:request_time_per_output_token_seconds", 2.0, None),
        ("vllm:request_prefill_time_seconds", 2.0, None),
        ("vllm:request_decode_time_seconds", 2.0, None),
        ("vllm:request_inference_time_seconds", 2.0, None),
    ] {
        assert_eq!(worker.metric(&format!("{name}_count")), count, "{name}");
        assert!(sum.is_none_or(|sum| worker.metric(&format!("{name}_sum")) == sum), "{name}");
    }
    let sums =
        ["prefill", "decode", "inference"].map(|part| worker.metric(&format!("vllm:request_{part}_time_seconds_sum")));
    assert!((sums[0] + sums[1] - sums[2]).abs() < 1e-9 && sums[1] > 0.0, "{sums:?}");
    let all = worker.metric("vllm:iteration_tokens_total_sum");
    let computed = worker.metric("vllm:request_prefill_kv_computed_tokens_sum");
    assert_eq!(all, computed + 2.0 * 4.0, "every token but the last is computed once, in one step or another");
    assert_eq!(worker.metric("vllm:prompt_tokens_by_source_total"), worker.metric("vllm:prompt_tokens_total"));
}

#[tokio::test]
async fn labels_of_known_sets_take_no_other_value() {
    let worker = start(json!({"queue_max": 1})).await;
    worker.chat(json!({"max_tokens": 3})).await;
    worker.post("/admin/models/demo/swap", &json!({"source": "nowhere"})).await;
    worker.until("forebay_worker_finished_total", |count| count == 1.0).await;
    let text = worker.get("/metrics").await.text();
    for def in [
        telemetry::names::WORKER_FINISHED,
        telemetry::names::WORKER_SWAPS,
        telemetry::names::WORKER_STEP_FAULTS,
        telemetry::names::VLLM_SUCCESS,
    ] {
        let series = text.lines().filter(|line| line.starts_with(&format!("{}{{", def.name))).count();
        assert_eq!(series, def.values.len(), "{}: {text}", def.name);
    }
}

#[tokio::test]
async fn requests_are_counted_by_route_and_class_of_status_as_fastapi_counts_them() {
    let worker = start(json!({})).await;
    worker.chat(json!({"max_tokens": 1})).await;
    worker.post("/v1/completions", &json!({"prompt": "x", "top_p": 7})).await;
    worker.post("/v1/nothing", &json!({})).await;
    worker.get("/livez").await;
    worker.until("http_requests_total", |count| count == 2.0).await;
    let text = worker.get("/metrics").await.text();
    for line in [
        "http_requests_total{handler=\"/v1/chat/completions\",method=\"POST\",status=\"2xx\"} 1",
        "http_requests_total{handler=\"/v1/completions\",method=\"POST\",status=\"4xx\"} 1",
        "http_request_duration_seconds_count{handler=\"/v1/chat/completions\",method=\"POST\"} 1",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}
