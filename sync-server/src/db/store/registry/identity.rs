//! Tokens, certificates and revocations.
//!
//! Invariant: a token's `used` and a certificate's `revoked` are set once. Not here: certificates themselves (`pki`).

use anyhow::Context;
use async_trait::async_trait;
use wayside_common::{
    id::{DeviceClass, DeviceId, Digest},
    time::Wall,
};

use crate::db::{
    identity::{Certificate, Granting, Identity, Token},
    sql::{Engine, Tx, params},
};

pub const SCHEMA_6: &str = "
CREATE TABLE enrolment_token (
    digest BLOB PRIMARY KEY, device TEXT NOT NULL, class TEXT NOT NULL,
    created INTEGER NOT NULL, expires INTEGER NOT NULL, used INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX enrolment_token_device ON enrolment_token (device);

CREATE TABLE certificate (
    serial TEXT PRIMARY KEY, device TEXT NOT NULL, class TEXT NOT NULL,
    issued INTEGER NOT NULL, expires INTEGER NOT NULL, revoked INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX certificate_device ON certificate (device);
";

#[async_trait]
impl<E: Engine> Identity for E {
    async fn keep_token(&self, token: Token, now: Wall) -> anyhow::Result<()> {
        self.write(move |tx| {
            tx.execute(
                "INSERT INTO enrolment_token (digest, device, class, created, expires) VALUES ($1, $2, $3, $4, $5)",
                params![token.digest.0, token.device.as_str(), token.class.as_str(), now.0, token.expires.0],
            )?;
            Ok(())
        })
        .await
    }

    async fn token(&self, digest: Digest) -> anyhow::Result<Option<Token>> {
        self.read(move |tx| {
            let sql = "SELECT device, class, expires FROM enrolment_token WHERE digest = $1";
            let found: Option<(String, String, i64)> =
                tx.first(sql, params![digest.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            let Some((device, class, expires)) = found else { return Ok(None) };
            Ok(Some(Token { digest, device: device.parse()?, class: class.parse()?, expires: Wall(expires) }))
        })
        .await
    }

    async fn redeem(&self, token: Digest, certificate: Certificate) -> anyhow::Result<Granting> {
        self.write(move |tx| redeem(tx, token, &certificate)).await
    }

    async fn class_of(&self, serial: &str) -> anyhow::Result<Option<DeviceClass>> {
        let serial = serial.to_owned();
        self.read(move |tx| {
            let found: Option<String> = tx.first("SELECT class FROM certificate WHERE serial = $1", params![serial], |row| row.get(0))?;
            found.map(|class| class.parse().context("a stored class")).transpose()
        })
        .await
    }

    async fn renew(&self, serial: &str, certificate: Certificate) -> anyhow::Result<Granting> {
        let serial = serial.to_owned();
        self.write(move |tx| {
            let sql = "SELECT revoked FROM certificate WHERE serial = $1 AND device = $2";
            let revoked: Option<Option<i64>> = tx.first(sql, params![serial, certificate.device.as_str()], |row| row.get(0))?;
            match revoked {
                None => Ok(Granting::Unknown),
                Some(Some(_)) => Ok(Granting::Barred),
                Some(None) => {
                    note(tx, &certificate)?;
                    Ok(Granting::Done)
                }
            }
        })
        .await
    }

    async fn revoke(&self, device: &DeviceId, now: Wall) -> anyhow::Result<Vec<String>> {
        let device = device.clone();
        self.write(move |tx| {
            tx.execute("UPDATE enrolment_token SET used = $1 WHERE device = $2 AND used IS NULL", params![now.0, device.as_str()])?;
            tx.execute("UPDATE certificate SET revoked = $1 WHERE device = $2 AND revoked IS NULL", params![now.0, device.as_str()])?;
            tx.rows("SELECT serial FROM certificate WHERE device = $1 ORDER BY serial", params![device.as_str()], |row| row.get(0))
        })
        .await
    }

    async fn revoked(&self) -> anyhow::Result<Vec<(String, Wall)>> {
        self.read(|tx| {
            let sql = "SELECT serial, revoked FROM certificate WHERE revoked IS NOT NULL ORDER BY serial";
            tx.rows(sql, params![], |row| Ok((row.get(0)?, Wall(row.get(1)?))))
        })
        .await
    }

    async fn has_issued(&self) -> anyhow::Result<bool> {
        self.read(|tx| Ok(tx.first("SELECT serial FROM certificate LIMIT 1", params![], |_| Ok(()))?.is_some())).await
    }
}

fn redeem(tx: &Tx, token: Digest, certificate: &Certificate) -> anyhow::Result<Granting> {
    let sql = "SELECT used, expires FROM enrolment_token WHERE digest = $1 AND device = $2 AND class = $3";
    let (device, class) = (certificate.device.as_str(), certificate.class.as_str());
    let found: Option<(Option<i64>, i64)> = tx.first(sql, params![token.0, device, class], |row| Ok((row.get(0)?, row.get(1)?)))?;
    match found {
        None => Ok(Granting::Unknown),
        Some((Some(_), _)) => Ok(Granting::Barred),
        Some((None, expires)) if expires < certificate.issued.0 => Ok(Granting::Expired),
        Some((None, _)) => {
            tx.execute("UPDATE enrolment_token SET used = $1 WHERE digest = $2", params![certificate.issued.0, token.0])?;
            note(tx, certificate)?;
            Ok(Granting::Done)
        }
    }
}

fn note(tx: &Tx, certificate: &Certificate) -> anyhow::Result<()> {
    let Certificate { serial, device, class, issued, expires } = certificate;
    tx.execute(
        "INSERT INTO certificate (serial, device, class, issued, expires) VALUES ($1, $2, $3, $4, $5)",
        params![serial, device.as_str(), class.as_str(), issued.0, expires.0],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{db::sqlite::Sqlite, fixture, scratch::Scratch};

    fn certificate(serial: &str, device: &str, issued: i64) -> Certificate {
        let class = "camera".parse().unwrap();
        Certificate { serial: serial.into(), device: fixture::device(device), class, issued: Wall(issued), expires: Wall(issued + 90) }
    }

    fn token(digest: u8, device: &str) -> Token {
        Token { digest: Digest([digest; 32]), device: fixture::device(device), class: "camera".parse().unwrap(), expires: Wall(60) }
    }

    #[tokio::test]
    async fn a_token_is_good_once_for_its_device_and_until_it_expires() {
        let scratch = Scratch::new();
        let db = Sqlite::open(&scratch.path().join("wayside.db")).unwrap();
        for (digest, device) in [(1, "cam-1"), (2, "cam-2")] {
            db.keep_token(token(digest, device), Wall(0)).await.unwrap();
        }
        assert!(!db.has_issued().await.unwrap());
        assert_eq!(db.token(Digest([1; 32])).await.unwrap(), Some(token(1, "cam-1")));
        struct Case(u8, &'static str, &'static str, i64, Granting);
        let cases = [
            Case(9, "a", "cam-1", 10, Granting::Unknown),
            Case(1, "a", "cam-2", 10, Granting::Unknown),
            Case(1, "a", "cam-1", 61, Granting::Expired),
            Case(1, "a", "cam-1", 60, Granting::Done),
            Case(1, "b", "cam-1", 60, Granting::Barred),
        ];
        for Case(digest, serial, device, at, expected) in cases {
            let got = db.redeem(Digest([digest; 32]), certificate(serial, device, at)).await.unwrap();
            assert_eq!(got, expected, "{digest} {serial} {device} {at}");
        }
        assert!(db.has_issued().await.unwrap());
        assert_eq!(db.class_of("b").await.unwrap(), None, "a token that was used leaves no certificate behind");
    }

    #[tokio::test]
    async fn what_is_revoked_is_not_renewed_and_its_open_tokens_go_with_it() {
        let scratch = Scratch::new();
        let db = Sqlite::open(&scratch.path().join("wayside.db")).unwrap();
        for digest in [1, 2] {
            db.keep_token(token(digest, "cam-1"), Wall(0)).await.unwrap();
        }
        db.redeem(Digest([1; 32]), certificate("a", "cam-1", 1)).await.unwrap();
        assert_eq!(db.renew("a", certificate("b", "cam-1", 70)).await.unwrap(), Granting::Done);
        assert_eq!(db.renew("a", certificate("c", "cam-2", 70)).await.unwrap(), Granting::Unknown, "of another device");
        assert_eq!(db.revoke(&fixture::device("cam-1"), Wall(71)).await.unwrap(), ["a", "b"]);
        assert_eq!(db.renew("b", certificate("c", "cam-1", 72)).await.unwrap(), Granting::Barred);
        assert_eq!(db.redeem(Digest([2; 32]), certificate("d", "cam-1", 5)).await.unwrap(), Granting::Barred);
        assert_eq!(db.revoked().await.unwrap(), [("a".into(), Wall(71)), ("b".into(), Wall(71))]);
        // It may be let in again, by a person.
        db.keep_token(token(3, "cam-1"), Wall(72)).await.unwrap();
        assert_eq!(db.redeem(Digest([3; 32]), certificate("e", "cam-1", 50)).await.unwrap(), Granting::Done);
        assert_eq!(db.revoked().await.unwrap().len(), 2);
    }
}
