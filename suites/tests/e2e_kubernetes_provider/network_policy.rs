//! deploy/kubernetes/network-policy.yaml where policies are enforced. Each case first sees, without the
//! policy, that what it will find closed can be reached.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use hodei_harness::case::{
    CaseEnv, CaseOptions, LISTENER, command, pod_ready, pod_terminated, run_case, run_case_with,
};
use hodei_proto::v1::JobState;
use kube::ResourceExt;
use kube::api::PostParams;
use serde_json::json;

use crate::pods::{NO_RETRY, make_pod, pods};

/// From the creation of pods to their end, and of a policy to its being in force.
const DEADLINE: Duration = Duration::from_secs(90);
/// The server's port in the policy.
const GRPC: u16 = 50051;
/// A port that the policy says nothing about.
const OTHER: u16 = 8443;
/// `knock ADDRESS PORT [SECONDS]`: whether a connection comes about.
const KNOCK: &str =
    r#"knock() { timeout "${3:-2}" bash -c "exec 3<>/dev/tcp/$1/$2" 2>/dev/null; }"#;
/// Sets `dns` to the address of the cluster's DNS.
const FIND_DNS: &str = r#"while read -r word dns _; do
  [ "$word" = nameserver ] && break; done </etc/resolv.conf"#;

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_policy_egress_of_a_worker() {
    run_case("infra.network-policy", async |env| {
        let host = env.start_neighbour(&[22, 80, 443, OTHER, GRPC]).await?;
        let name = "getent ahostsv4 kubernetes.default.svc.cluster.local >/dev/null";
        let table = [
            ("name", name.to_owned(), true),
            ("dns", "knock $dns 53".into(), true),
            ("grpc", format!("knock {host} {GRPC}"), true),
            ("https", format!("knock {host} 443"), true),
            ("ssh", format!("knock {host} 22"), false),
            ("http", format!("knock {host} 80"), false),
            ("other", format!("knock {host} {OTHER}"), false),
            ("metrics of dns", "knock $dns 9153".into(), false),
        ];
        let tell = |(name, test, _): &(&str, String, bool)| {
            format!("if {test}; then echo {name}: open; else echo {name}: closed; fi\n")
        };
        let tests: String = table.iter().map(tell).collect();
        let script = format!("{KNOCK}\n{FIND_DNS}\n{tests}");
        let expected = |open: fn(bool) -> bool| -> Vec<String> {
            let row = |(name, _, allowed): &(&str, String, bool)| {
                format!("{name}: {}", if open(*allowed) { "open" } else { "closed" })
            };
            table.iter().map(row).collect()
        };
        assert_eq!(run_job(env, &script).await?, expected(|_| true), "without the policy");
        env.apply_network_policy().await?;
        await_in_force(env, host).await?;
        // That it runs at all says that its worker reaches its server.
        assert_eq!(run_job(env, &script).await?, expected(|allowed| allowed), "with it");
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_policy_from_the_first_instruction() {
    run_case_with("infra.network-policy-start", CaseOptions::cluster_only(), async |env| {
        let host = env.start_neighbour(&[OTHER, GRPC]).await?;
        // 3: the first packets got out. 0: none did, and what is allowed can be reached.
        let script = format!(
            "{KNOCK}\n\
             for try in {{1..15}}; do\n\
               if knock {host} {OTHER} 0.2; then echo try $try got through; exit 3; fi\n\
             done\n\
             for _ in {{1..20}}; do knock {host} {GRPC} && exit 0; done; exit 4"
        );
        let nodes = env.environment().cluster.nodes.clone();
        let from = |round: &'static str| nodes.iter().map(move |node| (round, node.as_str()));
        let rounds = ["one", "two", "three", "four", "five"];
        let free = run_pods(env, "pods without a policy to end", from("free"), &script).await?;
        assert!(free.values().all(|code| *code == 3), "without the policy: {free:?}");
        env.apply_network_policy().await?;
        await_in_force(env, host).await?;
        let every = rounds.into_iter().flat_map(from);
        let held = run_pods(env, "pods under the policy to end", every, &script).await?;
        assert_eq!(held.len(), rounds.len() * nodes.len());
        assert!(held.values().all(|code| *code == 0), "with it: {held:?}");
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: HODEI_K8S_TEST=1"]
fn test_k8s_policy_ingress() {
    run_case_with("infra.network-policy-ingress", CaseOptions::cluster_only(), async |env| {
        let host = env.start_neighbour(&[GRPC]).await?;
        let listen = ["perl", "-e", LISTENER, &GRPC.to_string()].map(str::to_owned);
        let mut manifest = make_pod(env, "listener", &[]);
        manifest["spec"]["containers"][0]["command"] = json!(listen);
        pods(env).create(&PostParams::default(), &serde_json::from_value(manifest)?).await?;
        let found = env.await_pods("the listener's address", DEADLINE, |all| {
            let ready = all.iter().find(|record| pod_ready(&record.pod));
            ready.and_then(|record| record.pod.status.as_ref()?.pod_ip.clone())
        });
        let listener = found.await?;
        // 3: it was reached. 0: it was not in six seconds, and what is allowed could be.
        let script = format!(
            "{KNOCK}\n\
             for _ in 1 2 3; do if knock {listener} {GRPC}; then exit 3; fi; done\n\
             knock {host} {GRPC} || exit 4"
        );
        let nodes = env.environment().cluster.nodes.clone();
        let from = |round: &'static str| nodes.iter().map(move |node| (round, node.as_str()));
        let free = run_pods(env, "pods without a policy to end", from("free"), &script).await?;
        assert!(free.values().all(|code| *code == 3), "without the policy: {free:?}");
        env.apply_network_policy().await?;
        let gone_dark = format!("{KNOCK}\nwhile knock {listener} {GRPC}; do sleep 0.1; done");
        run_pods(env, "the listener to be out of reach", from("dark"), &gone_dark).await?;
        let held = run_pods(env, "pods under the policy to end", from("held"), &script).await?;
        assert!(held.values().all(|code| *code == 0), "with it: {held:?}");
        Ok(())
    });
}

/// The lines that a job of this script writes.
async fn run_job(env: &CaseEnv, script: &str) -> Result<Vec<String>> {
    let mut spec = command(&["bash", "-c", script]);
    spec.retry = Some(NO_RETRY);
    let job = env.submit(spec).await?;
    env.await_job_state(&job.id, JobState::Succeeded).await?;
    let output = env.job_output(&job.id).await?.stdout();
    Ok(output.lines().map(str::to_owned).collect())
}

/// Runs a script in a pod for each name and node, all at once; their exit codes when all have ended,
/// which is what is waited for.
async fn run_pods<'a>(
    env: &CaseEnv,
    what: &str,
    named: impl Iterator<Item = (&'a str, &'a str)>,
    script: &str,
) -> Result<BTreeMap<String, i32>> {
    let mut names = Vec::new();
    for (name, node) in named {
        let name = format!("{name}-{node}");
        let mut manifest = make_pod(env, &name, &["bash", "-c", script]);
        manifest["spec"]["nodeName"] = json!(node);
        pods(env).create(&PostParams::default(), &serde_json::from_value(manifest)?).await?;
        names.push(name);
    }
    let ended = env.await_pods(what, DEADLINE, |all| {
        let mine = all.iter().filter(|record| names.contains(&record.pod.name_any()));
        let codes = mine.filter_map(|one| Some((one.pod.name_any(), pod_terminated(&one.pod)?)));
        let codes: BTreeMap<_, _> = codes.collect();
        (codes.len() == names.len()).then_some(codes)
    });
    Ok(ended.await?)
}

/// A policy is taken at once and in force a little later: waits until a pod on each node is held back
/// from a port that `host` listens on.
async fn await_in_force(env: &CaseEnv, host: IpAddr) -> Result<()> {
    let script = format!("{KNOCK}\nwhile knock {host} {OTHER}; do sleep 0.1; done");
    let nodes = env.environment().cluster.nodes.clone();
    let sentinels = nodes.iter().map(|node| ("sentinel", node.as_str()));
    run_pods(env, "the policy to be in force on every node", sentinels, &script).await?;
    Ok(())
}
