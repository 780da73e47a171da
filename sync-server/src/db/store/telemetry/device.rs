//! The device's own row: who it is, what runs in its slots, when it was seen, its newest picture.
//!
//! Invariant: a device exists here as soon as it said anything. Not here: its streams, and what it is meant to run.

use wayside_common::{
    fleet::{Hello, ModelRef, SlotStatus},
    id::{DeviceId, Epoch, SlotName},
    time::Wall,
    wire::Thumbnail,
};

use super::{digest, int, ledger, name};
use crate::db::{
    sql::{Tx, params},
    telemetry::{Device, HelloReceipt, PictureReceipt, ThumbnailRow},
};

pub fn presence(tx: &Tx, device: &DeviceId, online: bool, now: Wall) -> anyhow::Result<()> {
    tx.execute(
        "INSERT INTO device (id, online, last_seen) VALUES ($1, $2, $3)
         ON CONFLICT (id) DO UPDATE SET online = excluded.online,
         last_seen = CASE WHEN device.last_seen > excluded.last_seen THEN device.last_seen ELSE excluded.last_seen END",
        params![device.as_str(), online, now.0],
    )?;
    Ok(())
}

pub fn hello(tx: &Tx, device: &DeviceId, hello: &Hello, now: Wall) -> anyhow::Result<HelloReceipt> {
    let sql = "SELECT epoch, epoch_counter, ledger_version FROM device WHERE id = $1";
    let before: Option<(Option<String>, Option<u32>, u64)> =
        tx.first(sql, params![device.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let known = before.as_ref().map_or(0, |(.., version)| *version);
    // What lies between the two was acked by a store that is gone: it has to come again.
    let ledger_version = if hello.ledger_base <= known { hello.ledger_version } else { known };
    presence(tx, device, true, now)?;
    tx.execute(
        "UPDATE device SET class = $1, agent_version = $2, epoch = $3, epoch_counter = $4, started = $5, generation = $6,
         root_version = $7, targets_version = $8, storage_fault = $9, ledger_version = $10 WHERE id = $11",
        params![
            hello.class.as_str(),
            hello.agent_version,
            hello.epoch.to_string(),
            hello.epoch.counter,
            hello.started.0,
            int(hello.generation.0)?,
            int(hello.root_version)?,
            int(hello.targets_version)?,
            hello.storage_fault,
            int(ledger_version)?,
            device.as_str()
        ],
    )?;
    replace_slots(tx, device, &hello.slots)?;
    let new_gaps = ledger::take(tx, device, &hello.ledger)?;
    ledger::note_holds(tx, device, hello)?;
    let lost = ledger::streams_with_loss(tx, device, hello)?;
    let restored = before.and_then(|(epoch, counter, _)| restored(&hello.epoch, &epoch?, counter?));
    let alert = restored.or_else(|| {
        (lost > 0).then(|| format!("{lost} streams lack records that were acked once: a server's store was lost, or the device's ledger"))
    });
    Ok(HelloReceipt { new_gaps, ledger_version, alert })
}

/// Counters only grow: an older one, or the same with another nonce, is a restored image or a second device with this name.
fn restored(now: &Epoch, last: &str, last_counter: u32) -> Option<String> {
    (now.to_string() != last && now.counter <= last_counter)
        .then(|| format!("epoch {now} came after epoch {last}: the device was restored from an image, or two devices have this name"))
}

pub fn replace_slots(tx: &Tx, device: &DeviceId, slots: &[SlotStatus]) -> anyhow::Result<()> {
    tx.execute("DELETE FROM slot WHERE device = $1", params![device.as_str()])?;
    slots.iter().try_for_each(|status| put_slot(tx, device, status))?;
    // A device has as many pictures as it has slots, whatever names it had before.
    tx.execute(
        "DELETE FROM thumbnail WHERE device = $1 AND slot NOT IN (SELECT slot.slot FROM slot WHERE slot.device = $1)",
        params![device.as_str()],
    )?;
    Ok(())
}

fn put_slot(tx: &Tx, device: &DeviceId, status: &SlotStatus) -> anyhow::Result<()> {
    let active = status.active.as_ref();
    tx.execute(
        "INSERT INTO slot (device, slot, model, version, digest) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (device, slot) DO UPDATE SET model = excluded.model, version = excluded.version, digest = excluded.digest",
        params![
            device.as_str(),
            status.slot.as_str(),
            active.map(|model| model.name.as_str()),
            active.map(|model| model.version),
            active.map(|model| model.digest.0)
        ],
    )?;
    Ok(())
}

/// All devices, or one.
pub fn list(tx: &Tx, only: Option<&DeviceId>) -> anyhow::Result<Vec<Device>> {
    let sql =
        "SELECT id, class, online, last_seen, agent_version, epoch, started, generation, root_version, targets_version, storage_fault,
         (SELECT CAST(coalesce(sum(redelivered), 0) AS BIGINT) FROM stream WHERE stream.device = device.id),
         (SELECT CAST(coalesce(sum(differing), 0) AS BIGINT) FROM stream WHERE stream.device = device.id)
         FROM device WHERE CAST($1 AS TEXT) IS NULL OR id = $1 ORDER BY id";
    let mut devices: Vec<Device> = tx.rows(sql, params![only.map(DeviceId::as_str)], |row| {
        Ok(Device {
            id: name(row.get(0)?)?,
            class: row.get(1)?,
            online: row.get(2)?,
            last_seen: row.get(3)?,
            agent_version: row.get(4)?,
            epoch: row.get(5)?,
            started: row.get(6)?,
            generation: row.get(7)?,
            root_version: row.get(8)?,
            targets_version: row.get(9)?,
            storage_fault: row.get(10)?,
            slots: Vec::new(),
            redelivered: row.get(11)?,
            differing: row.get(12)?,
        })
    })?;
    for device in &mut devices {
        device.slots = slots(tx, &device.id)?;
    }
    Ok(devices)
}

fn slots(tx: &Tx, device: &DeviceId) -> anyhow::Result<Vec<SlotStatus>> {
    let sql = "SELECT slot, model, version, digest FROM slot WHERE device = $1 ORDER BY slot";
    tx.rows(sql, params![device.as_str()], |row| {
        let active = match row.get::<_, Option<String>>(1)? {
            Some(model) => Some(ModelRef { name: name(model)?, version: row.get(2)?, digest: digest(row.get(3)?)? }),
            None => None,
        };
        Ok(SlotStatus { slot: name(row.get(0)?)?, active })
    })
}

/// The latest replaces the one before; an older one of the same epoch that comes late does not.
pub fn keep_thumbnail(tx: &Tx, device: &DeviceId, thumbnail: &Thumbnail, now: Wall) -> anyhow::Result<PictureReceipt> {
    let (id, slot) = (device.as_str(), thumbnail.slot.as_str());
    let sql = "SELECT coalesce(epoch, '') FROM device JOIN slot ON slot.device = device.id WHERE device.id = $1 AND slot.slot = $2";
    let Some(epoch) = tx.first(sql, params![id, slot], |row| row.get::<_, String>(0))? else {
        return Ok(PictureReceipt::NoSlot);
    };
    let kept = tx.execute(
        "INSERT INTO thumbnail (device, slot, position, received, label, jpeg, epoch) VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (device, slot) DO UPDATE SET position = excluded.position, received = excluded.received, label = excluded.label,
         jpeg = excluded.jpeg, epoch = excluded.epoch WHERE excluded.epoch <> thumbnail.epoch OR excluded.position > thumbnail.position",
        params![id, slot, int(thumbnail.position.0)?, now.0, thumbnail.label, thumbnail.jpeg, epoch],
    )?;
    Ok(if kept == 1 { PictureReceipt::Kept } else { PictureReceipt::Late })
}

pub fn thumbnails(tx: &Tx, device: &DeviceId) -> anyhow::Result<Vec<ThumbnailRow>> {
    let sql = "SELECT slot, position, received, label FROM thumbnail WHERE device = $1 ORDER BY slot";
    tx.rows(sql, params![device.as_str()], |row| {
        Ok(ThumbnailRow { slot: row.get(0)?, position: row.get(1)?, received_ms: row.get(2)?, label: row.get(3)? })
    })
}

pub fn thumbnail(tx: &Tx, device: &DeviceId, slot: &SlotName) -> anyhow::Result<Option<Vec<u8>>> {
    let sql = "SELECT jpeg FROM thumbnail WHERE device = $1 AND slot = $2";
    tx.first(sql, params![device.as_str(), slot.as_str()], |row| row.get(0))
}
