use systemimager_initrd::pack::*;
fn main() -> anyhow::Result<()> {
    let a: Vec<String> = std::env::args().skip(1).collect();
    let asked = ["ext4", "vfat"].map(|m| Asked { module: m.into(), by: "dev".into() }).to_vec();
    let request = BuildRequest {
        kernel: a[0].clone().into(), modules: a[1].clone().into(), config: Some(a[2].clone().into()),
        contents: Contents { init: "target/debug/systemimager-init".into(), agent: "target/debug/systemimager-agent".into(),
            plugins: vec!["target/debug/libidentity_hosts.so".into()], needs: vec![systemimager_engine::install::needs()] },
        asked_modules: asked,
    };
    println!("{:#?}", build(&request, a[3].as_ref(), a[4].as_ref())?);
    Ok(())
}
