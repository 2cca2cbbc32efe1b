//! The route for the pages of signed check-ins.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::Request;

use super::routes::{Answer, App, Expired, HttpRefusal, blocking, not_too_often, now, ok, peer, read_whole, site};
use crate::db::Taken;
use api::check_in::{ACKNOWLEDGEMENT_PURPOSE, Acknowledgement, Page, PageError};

/// Takes a page of a site's signed check-in. Answers as a check-in of format 1 does, and with what HQ has of the site.
pub(super) async fn signed_check_in(State(app): State<Arc<App>>, request: Request<Body>) -> Answer {
    let identity = site(&app, peer(&request)?, Expired::Refused).await?;
    not_too_often(&app, &identity)?;
    let page = Page::parse(&read_whole(request).await?)?;
    if (&page.header.fleet, &page.header.site) != (&identity.fleet, &identity.site) {
        return Err(HttpRefusal::malformed("this check-in is another site's"));
    }
    let key = public_key(&identity.certificate).ok_or(PageError::Signature)?;
    page.verify(&key)?;
    let answer = blocking(move || {
        let time = now();
        let taken = match app.check_ins.take(&identity.site, time, &page, &identity.certificate)? {
            Ok(taken) => taken,
            Err(error) => return Ok(Err(HttpRefusal::from(error))),
        };
        if let Some(site) = taken.site_time {
            app.clock.heard(site, time, super::since_start());
        }
        let (time, _) = match app.may_sign() {
            Ok(time) => time,
            Err(doubt) => return Ok(Err(HttpRefusal::from(doubt))),
        };
        let newest = app.db.published(&identity.site)?;
        let Taken { verdict, counter, state, .. } = taken;
        let (purpose, nonce) = (ACKNOWLEDGEMENT_PURPOSE.to_owned(), page.header.nonce);
        app.answer(&Acknowledgement { purpose, site: identity.site, nonce, time, newest, verdict, counter, state })
            .map(Ok)
    })
    .await??;
    ok(&answer)
}

/// The P-256 key of a certificate in DER: the uncompressed point. `None` if it has no such key.
fn public_key(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let point = &parsed.public_key().subject_public_key.data;
    (point.len() == 65 && point.first() == Some(&4)).then(|| point.to_vec())
}
