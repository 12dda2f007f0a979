//! Waiting for something to become true, with a deadline.
//!
//! The only place of the lab that sleeps, and only between two looks at the thing waited for.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Asks `look` until it gives a value; after `limit` it is an error that names `what` was
/// waited for. An error of `look` ends the waiting at once.
pub fn wait_until<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begin = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(value) = look().with_context(|| format!("waiting for {what}"))? {
            return Ok(value);
        }
        if begin.elapsed() >= limit {
            bail!("waited {} s for {what}, in vain", limit.as_secs_f32());
        }
        std::thread::sleep(pause.min(limit.saturating_sub(begin.elapsed())));
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_with_the_value_the_error_or_the_deadline() {
        let mut looks = 0;
        let value = wait_until(Duration::from_secs(5), "the third look", || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(value.unwrap(), 3);
        let error = wait_until(Duration::from_millis(20), "rain", || Ok(None::<()>)).unwrap_err();
        assert_eq!(error.to_string(), "waited 0.02 s for rain, in vain");
        let error =
            wait_until(Duration::from_secs(60), "rain", || -> Result<Option<()>> { bail!("drought") }).unwrap_err();
        assert_eq!(format!("{error:#}"), "waiting for rain: drought");
    }
}
